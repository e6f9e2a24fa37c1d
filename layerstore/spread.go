package layerstore

import (
	"context"
	"time"
)

const (
	// A blob smaller than this, in bytes, comes over one connection: it is
	// here before a second one has gained anything.
	spreadFrom = 32 << 20
	// A part smaller than this is not worth a request of its own.
	spreadPart = 4 << 20
	// Requests for parts of one blob at one time. Registries that limit a
	// connection give four times as much to four; more gain little elsewhere.
	spreadMost = 4
	// A transfer that ends within this time at its present rate is left alone,
	// so that a fast upstream sees one request a blob, and also one that is
	// slow for a moment because fifty clients keep the machine busy.
	spreadWorth = 2 * time.Second
	// The rate is believed from this look on: a first one sees a slow start.
	spreadLooks = 2
	// A further connection must have raised the rate by this factor, or no
	// more are opened: the line, not the connection, is the limit then.
	spreadGain = 1.15
	// The first look is after the first bytes of a slow start; later ones
	// measure what the last connection gained.
	defaultSpreadEvery = 200 * time.Millisecond
)

// Sharer is a [Source] with a say in how many requests for parts of a blob
// are open side by side. A source without it gets a few a blob.
type Sharer interface {
	// Share asks for leave to open one more request. done gives it back. The
	// store holds no lock meanwhile.
	Share() (done func(), ok bool)
}

// spread opens further requests for parts of a large blob while that makes it
// faster. It goes back to one at the first sign that the source dislikes it.
type spread struct {
	flight   *flight
	looks    int
	most     int     // requests that were open together and gained by it
	received int64   // at the last look
	rate     float64 // bytes a second, at the time of the last addition
	full     bool    // the last one gained nothing: no more than there are
}

// spreading looks every now and then until stop is called, which waits.
func (f *flight) spreading() (stop func()) {
	ctx, cancel := context.WithCancel(f.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s := &spread{flight: f}
		tick := time.NewTicker(f.store.spreadEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				s.look()
			}
		}
	}()
	return func() { cancel(); <-done }
}

// look opens one more request if that is worth it.
func (s *spread) look() {
	again, more, rate := s.judge()
	if !again && !more {
		return
	}
	if open := s.flight.split(); open > 0 && more {
		s.rate, s.most = rate, open
	}
}

// judge finds out whether a request may be opened again in place of one that came
// to its end, or one more than there were; and the present rate.
func (s *spread) judge() (again, more bool, rate float64) {
	f := s.flight
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dropSlow()
	rate = float64(f.received-s.received) / f.store.spreadEvery.Seconds()
	s.received = f.received
	if !f.maySend() || f.size < spreadFrom || f.received == 0 || len(f.active) == 0 || f.longest() == nil {
		return false, false, rate
	}
	s.looks++
	switch {
	case len(f.active) < s.most:
		return true, false, rate // a part came to its end: its connection helps with another
	case s.full || s.looks < spreadLooks || len(f.active) >= spreadMost || float64(f.size-f.have.bytes()) < rate*spreadWorth.Seconds():
	case s.most > 1 && rate < s.rate*spreadGain:
		s.full = true
	default:
		return false, true, rate
	}
	return false, false, rate
}

const (
	// A request is slow when it brings less than this part of what the fastest
	// of its flight brought in a window of as long as a stall: a connection
	// that drips is as good as one that is silent, and holds everybody as long.
	slowPart = 1.0 / 50
	// What is left of a stretch must be worth another request, in bytes.
	slowLeft = 1 << 20
	// How fast a request can be is measured in so many parts of a window: one
	// that was fast for a moment only has shown what the source could give.
	slowParts = 5
)

// dropSlow has requests overtaken that have become slow. A source that is no
// faster when it is asked anew is found so less and less often. f.mu is held.
func (f *flight) dropSlow() {
	part := max(int(f.store.stall/f.store.spreadEvery)/slowParts, 1)
	for s := range f.active {
		if s.hangUp == nil {
			continue
		}
		if s.looks++; s.looks%part == 0 {
			f.best = max(f.best, slowParts*(s.pos-s.pace))
			s.pace = s.pos
		}
		if s.looks < slowParts*part {
			continue
		}
		brought := s.pos - s.mark
		s.mark, s.looks = s.pos, 0
		if float64(brought) < slowPart*float64(f.best) && (s.end < 0 || s.end-s.pos > slowLeft) {
			f.best /= 2
			s.hangUp()
		}
	}
}

// mayHangUp tells what is done about a request that has become slow.
func (f *flight) mayHangUp(s *stretch, hangUp func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.hangUp, s.mark, s.pace, s.looks = hangUp, s.pos, s.pos, 0
}

// longest is the stretch that is best cut in two, nil when none is long enough.
// f.mu is held.
func (f *flight) longest() (longest *stretch) {
	for s := range f.active {
		if s.end >= 0 && (longest == nil || s.end-s.pos > longest.end-longest.pos) {
			longest = s
		}
	}
	if longest == nil || longest.end-longest.pos < 2*spreadPart {
		return nil
	}
	return longest
}

// split gives the second half of the longest stretch to a request of its own, if
// the source gives leave. It returns how many are open then, 0 when none was added.
func (f *flight) split() (open int) {
	done, ok := func() {}, true
	if sharer, is := f.source.(Sharer); is {
		done, ok = sharer.Share()
	}
	if !ok {
		return 0
	}
	if open = f.splitLongest(done); open == 0 {
		done()
	}
	return open
}

func (f *flight) splitLongest(done func()) (open int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	longest := f.longest()
	if longest == nil {
		return 0
	}
	middle, end := longest.pos+(longest.end-longest.pos)/2, longest.end
	side := &stretch{kept: middle, pos: middle, end: end, aside: true}
	longest.end = middle
	f.active[side] = struct{}{}
	f.aside.Go(func() {
		defer done()
		f.fillAside(side, longest, end)
	})
	return len(f.active)
}

package layerstore

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// errOvertaken ends a request whose bytes another one brings by now.
var errOvertaken = errors.New("another request was faster")

// race is the asking for one stretch. One request makes it, as long as it
// sends. When it falls silent, or drips, a second one is made beside it, for
// what is still to come, and whichever delivers first goes on alone: a
// connection that is only held up is not lost, and one that is dead costs
// nobody the time that a new one takes.
type race struct {
	flight *flight
	s      *stretch
	stall  time.Duration
	ctx    context.Context // of the first request
	hangUp context.CancelCauseFunc

	mu     sync.Mutex // guards what follows
	ended  bool       // the first request
	slow   bool       // the first one drips: what it sends decides nothing
	second *second    // nil until there is one; there is no third
	winner *second    // what delivered while there were two: first, or second
	first  second
}

// second is the request that is made when the first is silent.
type second struct {
	hangUp context.CancelCauseFunc
	done   chan struct{}
	err    error // valid when done is closed
}

// fill asks the source for one stretch and keeps what comes. It returns how
// often the source was asked in vain, at least 1, with an error; that is
// ErrStalled when all requests were silent for as long as stall.
func (f *flight) fill(s *stretch, stall time.Duration) (asked int, err error) {
	r := &race{flight: f, s: s, stall: stall}
	r.ctx, r.hangUp = context.WithCancelCause(f.ctx)
	defer r.hangUp(nil)
	err = r.request(r.ctx, func() *time.Timer {
		f.mayHangUp(s, func() { r.overtake(true) })
		return time.AfterFunc(stall, func() { r.overtake(false) })
	}, r.firstDelivers)
	return r.settle(err)
}

// request makes one request and keeps what comes of it, as long as mine says so.
// whenSilent is called when the source has agreed.
func (r *race) request(ctx context.Context, whenSilent func() *time.Timer, mine func() bool) error {
	f := r.flight
	pos, end := f.request(r.s)
	body, err := f.source.Open(ctx, pos, end)
	if err != nil {
		return causeOr(ctx, err)
	}
	defer body.Close()
	if err := f.agree(r.s, body, pos); err != nil {
		return err
	}
	silent := whenSilent()
	defer silent.Stop()
	err = f.drain(r.s, body, func(p []byte) (int, error) {
		silent.Reset(r.stall)
		defer silent.Stop() // a slow disk is not the source's silence
		n, err := body.Read(p)
		if (n > 0 || err == io.EOF) && !mine() {
			return 0, errOvertaken
		}
		return n, err
	})
	return causeOr(ctx, err)
}

// causeOr is why we ended a request, or else err.
func causeOr(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// overtake makes the second request. Where there was one already, the one that
// counts is ended; one that drips also when it goes on alone.
func (r *race) overtake(slow bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.second != nil && r.winner == nil:
		return // the second one has as long as the first had
	case r.ended && (r.second == nil || !slow):
		return
	case r.winner == &r.first:
		r.hangUp(ErrStalled)
		return
	case r.second != nil:
		r.second.hangUp(ErrStalled)
		return
	}
	r.slow = slow
	ctx, hangUp := context.WithCancelCause(r.flight.ctx)
	r.second = &second{hangUp: hangUp, done: make(chan struct{})}
	go r.runSecond(ctx, r.second) // settle waits for it
}

func (r *race) runSecond(ctx context.Context, second *second) {
	defer second.hangUp(nil)
	// It is silent while it is opened, too: all places of an upstream may be
	// held by requests that are.
	silent := time.AfterFunc(r.stall, func() { second.hangUp(ErrStalled) })
	defer silent.Stop()
	err := r.request(ctx, func() *time.Timer { return silent }, func() bool { return r.secondDelivers(second) })
	r.mu.Lock()
	second.err = err
	if r.winner == nil && err != nil {
		r.hangUp(err) // the first has been silent for even longer
	}
	r.mu.Unlock()
	close(second.done)
}

// firstDelivers reports whether the first request goes on.
func (r *race) firstDelivers() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.second != nil && r.winner == nil && !r.slow {
		r.winner = &r.first
		r.second.hangUp(errOvertaken)
	}
	return r.winner == nil || r.winner == &r.first
}

// secondDelivers reports whether the second request goes on, and ends the first.
func (r *race) secondDelivers(second *second) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.winner == nil {
		r.winner = second
		r.hangUp(errOvertaken)
	}
	return r.winner == second
}

// settle waits for the second request, where there is one, and gives the result
// of the one that counts: of the second, unless the first had delivered.
func (r *race) settle(err error) (asked int, _ error) {
	r.mu.Lock()
	r.ended = true
	second, first := r.second, r.winner == &r.first
	if second != nil && err == nil {
		second.hangUp(errOvertaken) // the stretch is full
	}
	r.mu.Unlock()
	if second == nil {
		return 1, err
	}
	<-second.done
	if first || err == nil {
		return 1, err
	}
	return 2, second.err
}

package layerstore

import (
	"errors"
	"time"
)

const (
	// How long no request is made beside a transfer after one that failed. It
	// doubles so many times: to little more than a minute.
	asideRest      = 5 * time.Second
	asideDoublings = 4
)

// summon fetches what a reader waits for on the side when no transfer will
// bring it soon. f.mu is held.
func (f *flight) summon(pos, want int64) {
	if f.state != arriving || !f.answered || f.size < 0 || !f.maySend() || f.have.reach(pos) > pos {
		return
	}
	// Without an active stretch the flight is about to ask, or rests after a break.
	if len(f.active) == 0 || len(f.active) > maxStretches {
		return
	}
	var owner *stretch
	for s := range f.active {
		if pos-s.pos < near && s.kept <= pos {
			return // soon here
		}
		if s.pos <= pos && pos < s.end {
			owner = s
		}
	}
	end := f.claimed().gap(pos).To
	if owner != nil {
		end = owner.end
		owner.end = pos // what stands behind the new stretch is a gap again
	}
	if end < 0 {
		end = f.size
	}
	side := &stretch{kept: pos, pos: pos, end: min(pos+max(want, minStretch), end), aside: true}
	f.active[side] = struct{}{}
	f.aside.Go(func() { f.fillAside(side, owner, end) })
}

// fillAside brings one stretch. owner, which may be nil, would have brought it
// and all up to end; it does again when the source does not.
func (f *flight) fillAside(side, owner *stretch, end int64) {
	_, err := f.fill(side, f.store.stall)
	if err != nil {
		f.store.log.Debug("stretch not fetched on the side", "digest", f.digest, "offset", side.pos, "error", err)
		f.giveBack(side, owner, end, err)
	}
	f.release(side)
}

// maySend reports whether a request may be made beside the transfer. f.mu is held.
func (f *flight) maySend() bool { return !f.alone && !time.Now().Before(f.restsUntil) }

// giveBack leaves a stretch that failed to the transfer, which pauses between
// tries as a stretch on the side does not: for a while there are no more of
// those, and the longer the more often one has failed. A source that gives no
// ranges is not asked for one again.
func (f *flight) giveBack(side, owner *stretch, end int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.alone = f.alone || errors.Is(err, errNoRanges)
	f.restsUntil = time.Now().Add(asideRest << min(f.failures, asideDoublings))
	f.failures++
	delete(f.active, side)
	if _, under := f.active[owner]; !under || owner.end != side.kept {
		return
	}
	if gap := f.claimed().gap(side.kept); gap.To >= 0 {
		end = min(end, gap.To)
	}
	owner.end = end
}

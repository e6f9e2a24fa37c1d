package mount

import (
	"errors"
	"sync"
	"sync/atomic"
)

// Reasons for which a layer was not given to containerd, which then fetches and
// unpacks it itself.
const (
	missUnknown = "unknown" // no image that went through the mirror has it
	missImage   = "image"   // the image could not be read
	missParent  = "parent"  // the layers below are not those of the image
	missWaited  = "waited"  // it took longer than PrepareWait
	missUnpack  = "unpack"  // it could not be fetched or unpacked
	missRow     = "row"     // the row could not be written
	missFault   = "fault"   // a fault of the program
)

var missReasons = [...]string{missUnknown, missImage, missParent, missWaited, missUnpack, missRow, missFault}

// missError says why a layer is not given.
type missError struct {
	reason string
	err    error
}

func (e *missError) Error() string { return e.err.Error() }
func (e *missError) Unwrap() error { return e.err }

// Status is what the snapshotter did since Open, and what it has now.
type Status struct {
	Taken   int64            // layers given to containerd without a download
	Reused  int64            // of those that had been given before
	Missed  map[string]int64 // layers that containerd fetched and unpacked itself, by reason; each reason is there
	Waiting int64            // Prepares that wait for a layer
	Mended  int64            // layers lost by the disk and made again
	Lost    int64            // that could not be made again when somebody wanted to mount them
}

// Status tells the figures, from memory.
func (s *Snapshotter) Status() Status {
	c := &s.counts
	status := Status{Taken: c.taken.Load(), Reused: c.reused.Load(), Waiting: c.waiting.Load(),
		Mended: c.mended.Load(), Lost: c.lost.Load(), Missed: make(map[string]int64, len(missReasons))}
	for i, reason := range missReasons {
		status.Missed[reason] = c.missed[i].Load()
	}
	return status
}

// counts are the figures of a Status.
type counts struct {
	taken, reused, waiting, mended, lost atomic.Int64
	missed                               [len(missReasons)]atomic.Int64
}

// note counts a miss, and logs the first of each layer and reason.
func (s *Snapshotter) note(chain string, err error) {
	reason := missFault
	if miss := new(missError); errors.As(err, &miss) {
		reason = miss.reason
	}
	for i, known := range missReasons {
		if known == reason {
			s.counts.missed[i].Add(1)
		}
	}
	if !s.told.first(reason + " " + chain) {
		return
	}
	if reason == missUnknown { // an image that comes from elsewhere is nobody's fault
		s.log.Debug("a layer goes the ordinary way", "chain", chain, "reason", reason, "error", err)
		return
	}
	s.log.Warn("a layer goes the ordinary way: containerd fetches and unpacks it", "chain", chain, "reason", reason, "error", err)
}

// toldMost bounds what told remembers: the layers of some hundred images.
const toldMost = 4096

// told remembers what was logged. The zero value is ready.
type told struct {
	mu   sync.Mutex // guards what
	what map[string]bool
}

// first reports whether something is told for the first time, as far as it is remembered.
func (t *told) first(what string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.what[what] {
		return false
	}
	if t.what == nil || len(t.what) >= toldMost {
		t.what = map[string]bool{}
	}
	t.what[what] = true
	return true
}

package forms

import (
	"maps"
	"sync/atomic"
)

// Stats are the figures of the forms. What is counted is counted since Open.
type Stats struct {
	Forms      map[string]int // here, by kind
	Bytes      int64          // that they take on the disk
	InUse      int            // forms that somebody holds
	Unsealed   int            // forms that a power cut would take
	Damaged    int            // forms that must be made again before they are lent
	Making     int            // makings under way
	Queued     int            // makings that wait for their turn
	Waiting    int            // who waits for makings
	Hits       int64          // found ready
	Joined     int64          // waited for a making that was under way
	Made       int64
	MadeAgain  int64            // of those, for a form that was damaged or not durable
	Failed     map[string]int64 // makings, by reason
	Skipped    int64            // not made ahead, for too many waited
	Unpacked   int64            // bytes of tar streams
	Dropped    int64            // forms removed
	Freed      int64            // bytes of those
	Deleting   int              // folders and files that wait for their deletion
	Scrubbed   int64            // bytes that scrubs read
	Rotten     int64            // forms that a scrub found rotten
	SealFailed int64            // syncs that failed
}

// counts are what Stats counts.
type counts struct {
	unpacked, dropped, freed, scrubbed, rotten, sealFailed atomic.Int64

	// Forms.mu guards what follows.
	hits, joined, made, madeAgain, skipped int64
	failed                                 map[string]int64
}

// fail counts a making that failed. Forms.mu is held.
func (c *counts) fail(reason string) {
	if c.failed == nil {
		c.failed = map[string]int64{}
	}
	c.failed[reason]++
}

// Stats tells the figures, from memory.
func (f *Forms) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := &f.counts
	s := Stats{
		Forms: map[string]int{KindDirectory: 0, KindEROFS: 0},
		Hits:  c.hits, Joined: c.joined, Made: c.made, MadeAgain: c.madeAgain, Skipped: c.skipped, Failed: maps.Clone(c.failed),
		Unpacked: c.unpacked.Load(), Dropped: c.dropped.Load(), Freed: c.freed.Load(), Scrubbed: c.scrubbed.Load(), Rotten: c.rotten.Load(), SealFailed: c.sealFailed.Load(),
		Deleting: len(f.doomed) + f.deleting,
	}
	for _, m := range f.forms {
		s.add(f, m)
	}
	for _, j := range f.makings {
		s.Waiting += j.waiters
		if j.working {
			s.Making++
		} else {
			s.Queued++
		}
	}
	return s
}

func (s *Stats) add(f *Forms, m *form) {
	s.Forms[m.row.Kind]++
	s.Bytes += m.row.Bytes
	if len(m.users) > 0 {
		s.InUse++
	}
	switch {
	case !f.ready(m):
		s.Damaged++
	case m.row.Sealed.IsZero():
		s.Unsealed++
	}
}

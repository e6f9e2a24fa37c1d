package layerstore

import (
	"maps"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// usage gathers times of use between two writes to the index.
type usage struct {
	mu      sync.Mutex // guards what follows
	used    map[digest.Digest]time.Time
	writing map[digest.Digest]time.Time // taken, and not known to be in the index
}

func newUsage() *usage { return &usage{used: map[digest.Digest]time.Time{}} }

func (u *usage) touch(d digest.Digest, at time.Time) {
	u.mu.Lock()
	u.used[d] = at
	u.mu.Unlock()
}

func (u *usage) last(d digest.Digest) (time.Time, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	at, ok := u.used[d]
	if !ok {
		at, ok = u.writing[d]
	}
	return at, ok
}

// all are the times that the index may not have yet.
func (u *usage) all() map[digest.Digest]time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := make(map[digest.Digest]time.Time, len(u.used)+len(u.writing))
	maps.Copy(all, u.writing)
	maps.Copy(all, u.used)
	return all
}

// take hands over what was gathered, and begins anew. It is known here until
// the next take, or putBack.
func (u *usage) take() map[digest.Digest]time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	taken := u.used
	u.used, u.writing = map[digest.Digest]time.Time{}, taken
	return taken
}

// putBack returns times that could not be written; later ones win.
func (u *usage) putBack(old map[digest.Digest]time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	maps.Copy(old, u.used)
	u.used = old
}

// writeUsage writes what was gathered every now and then until the store closes.
func (s *Store) writeUsage(every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
			taken := s.usage.take()
			if err := s.index.touch(taken); err != nil {
				s.log.Error("times of use not written", "error", err)
				s.usage.putBack(taken)
			}
		}
	}
}

package layerstore

import (
	"maps"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// usage gathers times of use between two writes to the index.
type usage struct {
	mu   sync.Mutex // guards used
	used map[digest.Digest]time.Time
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
	return at, ok
}

// take hands over what was gathered, and begins anew.
func (u *usage) take() map[digest.Digest]time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	taken := u.used
	u.used = map[digest.Digest]time.Time{}
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

package layerstore

import (
	"sync"

	"github.com/opencontainers/go-digest"
)

// Lease keeps blobs, and everything they refer to, from being evicted while
// something is made of them: a pull, a pin, a mounted layer. It lives in memory
// and ends with the process; what is to outlive it is a root ([Store.SetRoot]).
// All methods may be called in parallel.
type Lease struct {
	store *Store

	mu   sync.Mutex // guards held
	held []digest.Digest
}

// Lease gives a lease that holds nothing yet. Whoever took it releases it.
func (s *Store) Lease() *Lease { return &Lease{store: s} }

// Hold adds blobs, whether they are here or not. What is here when it returns
// stays until Release. It waits while something is being evicted, which takes
// as long as a disk takes to delete a few files.
func (l *Lease) Hold(digests ...digest.Digest) {
	if len(digests) == 0 {
		return
	}
	l.store.inUse.lease(digests)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = append(l.held, digests...)
}

// Release lets go of all that is held. Whoever only defers it may have
// released before.
func (l *Lease) Release() {
	l.mu.Lock()
	held := l.held
	l.held = nil
	l.mu.Unlock()
	l.store.inUse.unlease(held)
	if len(held) > 0 {
		l.store.collector.nudge() // what was held may have been too much
	}
}

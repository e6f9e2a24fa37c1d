package layerstore

import (
	"sync"

	"github.com/opencontainers/go-digest"
)

// inUse counts who reads or leases what, so that no collection takes it. Who
// asks for a blob that is just being removed waits until it is gone, and then
// asks for it anew: nobody holds what vanishes under him.
type inUse struct {
	mu      sync.Mutex            // guards what follows
	reading map[digest.Digest]int // open readers
	leased  map[digest.Digest]int // holds of leases
	going   map[digest.Digest]bool
	ended   chan struct{} // closed when the step that is under way has ended; nil without one
}

func newInUse() *inUse {
	return &inUse{reading: map[digest.Digest]int{}, leased: map[digest.Digest]int{}}
}

// read counts a reader, before it opens the blob.
func (u *inUse) read(d digest.Digest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for u.going[d] {
		u.await()
	}
	u.reading[d]++
}

// unread ends what read began.
func (u *inUse) unread(d digest.Digest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	less(u.reading, d)
}

// lease counts holds. It waits for a step under way, whatever that takes: what
// goes may be referred to by what is to be held.
func (u *inUse) lease(digests []digest.Digest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for u.ended != nil {
		u.await()
	}
	for _, d := range digests {
		u.leased[d]++
	}
}

func (u *inUse) unlease(digests []digest.Digest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, d := range digests {
		less(u.leased, d)
	}
}

func less(counts map[digest.Digest]int, d digest.Digest) {
	if counts[d]--; counts[d] <= 0 {
		delete(counts, d)
	}
}

// await waits for the end of a step. u.mu is held, and held again afterwards. A
// step takes no longer than a disk does, so nobody is let off early.
func (u *inUse) await() {
	ended := u.ended
	u.mu.Unlock()
	defer u.mu.Lock()
	<-ended
}

// begin begins a step that may take the given blobs. It is the committer's
// alone, as all removal is.
func (u *inUse) begin(digests []digest.Digest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ended = make(chan struct{})
	u.going = make(map[digest.Digest]bool, len(digests))
	for _, d := range digests {
		u.going[d] = true
	}
}

// end ends the step and lets everybody go on who waited for it.
func (u *inUse) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	close(u.ended)
	u.ended, u.going = nil, nil
}

// holders are what is read and what is leased now.
func (u *inUse) holders() (reading, leased []digest.Digest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for d := range u.reading {
		reading = append(reading, d)
	}
	for d := range u.leased {
		leased = append(leased, d)
	}
	return reading, leased
}

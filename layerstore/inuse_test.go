package layerstore

import (
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"
)

// A blob that goes while somebody comes for it is let go of first; a lease
// waits for any step, for it may hold what is going through a parent that came
// just now.
func TestStepIsWaitedForByWhomItConcerns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newInUse()
		going, other := digest.FromString("going"), digest.FromString("other")
		u.begin([]digest.Digest{going})
		var readers, strangers, leases atomic.Int32
		go func() { u.read(going); readers.Add(1) }()
		go func() { u.read(other); strangers.Add(1) }()
		go func() { u.lease([]digest.Digest{other}); leases.Add(1) }()
		synctest.Wait()
		if readers.Load() != 0 || strangers.Load() != 1 || leases.Load() != 0 {
			t.Errorf("during a step: %d readers of what goes, %d of something else, %d leases", readers.Load(), strangers.Load(), leases.Load())
		}
		u.end()
		synctest.Wait()
		if readers.Load() != 1 || leases.Load() != 1 {
			t.Errorf("after a step: %d readers, %d leases", readers.Load(), leases.Load())
		}
		u.unread(going)
		u.unread(other)
		u.unlease([]digest.Digest{other})
		if reading, leased := u.holders(); len(reading)+len(leased) != 0 {
			t.Errorf("%v are read and %v leased by nobody", reading, leased)
		}
	})
}

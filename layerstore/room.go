package layerstore

import (
	"errors"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// wishes is how many bytes a blob lacked that found the disk full; 0: none did.
type wishes struct{ bytes atomic.Int64 }

// noteFull has room made for a blob of that size when it could not be kept for
// want of it. Who fetches it now gets it past the store; the next finds room.
func (s *Store) noteFull(err error, size int64) {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return
	}
	for {
		wished := s.collector.wishes.bytes.Load()
		if wished >= size || s.collector.wishes.bytes.CompareAndSwap(wished, size) {
			break
		}
	}
	s.collector.nudge()
}

// makeRoom evicts for what found the disk full. For one that would not fit if
// all went that may go, nothing does. again says that what stands in the way
// was in use a moment ago, and that the wish stands.
func (s *Store) makeRoom() (again bool) {
	size := s.collector.wishes.bytes.Swap(0)
	if size == 0 {
		return false
	}
	capacity, free, err := s.disk()
	if err != nil {
		return false
	}
	o := CollectOptions{DryRun: true, Need: size + s.limits.free.of(capacity) - int64(free)}
	if o.Need <= 0 {
		return false // there is room again
	}
	c, err := s.Collect(s.ctx, o)
	if err == nil && c.Short > 0 && c.passing() {
		s.collector.wishes.bytes.CompareAndSwap(0, size)
		return true
	}
	if err == nil && c.Short == 0 {
		o.DryRun = false
		_, err = s.Collect(s.ctx, o)
	}
	if err != nil && s.ctx.Err() == nil {
		s.log.Error("collection failed", "error", err)
	}
	return false
}

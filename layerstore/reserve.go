package layerstore

import (
	"errors"

	"golang.org/x/sys/unix"
)

// reserve takes the space of the whole blob before the source is asked, while
// the disk is known to refuse: what does not fit shall not be sent in vain
// first. When all is well files stay sparse, and nothing is asked twice.
func (f *flight) reserve() error {
	if !f.store.keeping.present.Load() || f.size <= 0 {
		return nil
	}
	err := unix.Fallocate(int(f.part.file.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, f.size)
	for _, full := range []error{unix.ENOSPC, unix.EDQUOT, unix.EFBIG} {
		if errors.Is(err, full) {
			return storageError("reserve", err)
		}
	}
	return nil // there is room, or this file system cannot tell
}

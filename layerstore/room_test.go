package layerstore

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// A layer may be larger than all that is kept free.
func TestRoomIsMadeForWhatFoundTheDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const kib = 1 << 10
		free := uint64(11 * kib)
		s, err := Open(Options{
			Root: t.TempDir(), MinFree: Reserve{Bytes: kib},
			Disk: func() (uint64, uint64, error) { return 1 << 30, free, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for i := range 5 {
			putText(t, s, strings.Repeat(fmt.Sprint(i), 10*kib))
		}
		time.Sleep(time.Minute)
		for _, c := range []struct {
			err  error
			size int64
			left int64
		}{
			{unix.EIO, 20 * kib, 5},
			{unix.ENOSPC, 5 * kib, 5},   // there is room again
			{unix.ENOSPC, 100 * kib, 5}, // it would not fit if all went
			{unix.ENOSPC, 20 * kib, 4},
			{storageError("write", unix.EDQUOT), 30 * kib, 2},
		} {
			s.noteFull(c.err, c.size)
			synctest.Wait()
			if left := s.counts.blobs.Load(); left != c.left {
				t.Errorf("after %v for %d bytes %d blobs are left, want %d", c.err, c.size, left, c.left)
			}
		}
	})
}

package layerstore

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

const kib = 1 << 10

// full is a store on a disk of which so many bytes are free as the test says,
// with blobs of 10 KiB. It lives in a bubble.
type full struct {
	*Store
	t     *testing.T
	free  atomic.Uint64
	blobs []digest.Digest
}

func onAFullDisk(t *testing.T, free uint64, blobs int, test func(*full)) {
	synctest.Test(t, func(t *testing.T) {
		f := &full{t: t}
		f.free.Store(free)
		s, err := Open(Options{
			Root: t.TempDir(), MinFree: Reserve{Bytes: kib},
			Disk: func() (uint64, uint64, error) { return 1 << 30, f.free.Load(), nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		f.Store = s
		defer s.Close()
		for i := range blobs {
			f.blobs = append(f.blobs, putText(t, s, strings.Repeat(fmt.Sprint(i), 10*kib)))
		}
		test(f)
	})
}

// wantLeft lets the store do what it can do now, and wants so many blobs after it.
func (f *full) wantLeft(when string, want int64) {
	f.t.Helper()
	synctest.Wait()
	if left := f.counts.blobs.Load(); left != want {
		f.t.Errorf("%s: %d blobs are left, want %d", when, left, want)
	}
}

// A layer may be larger than all that is kept free.
func TestRoomIsMadeForWhatFoundTheDiskFull(t *testing.T) {
	onAFullDisk(t, 11*kib, 5, func(f *full) {
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
			f.noteFull(c.err, c.size)
			f.wantLeft(fmt.Sprintf("%v for %d bytes", c.err, c.size), c.left)
		}
	})
}

// What was used a moment ago must not go, and may in a moment: until then the
// wish stands, and the largest of several does.
func TestAWishForRoomStandsUntilWhatIsInUseMayGo(t *testing.T) {
	onAFullDisk(t, 11*kib, 3, func(f *full) {
		f.noteFull(unix.ENOSPC, 20*kib)
		f.wantLeft("used just now", 3)
		time.Sleep(justUsed / 2)
		f.noteFull(unix.ENOSPC, 30*kib)
		f.noteFull(unix.ENOSPC, 15*kib)
		f.wantLeft("used a moment ago", 3)
		time.Sleep(justUsed)
		f.wantLeft("not in use any more", 1)
		time.Sleep(time.Hour)
		f.wantLeft("once there is room the wish is over", 1)
	})
}

func TestAWishForRoomWaitsForAReader(t *testing.T) {
	onAFullDisk(t, 11*kib, 2, func(f *full) {
		reader, err := f.Fetch(t.Context(), specs.Descriptor{Digest: f.blobs[0]}, nil)
		if err != nil {
			t.Fatal(err)
		}
		f.noteFull(unix.ENOSPC, 30*kib)
		time.Sleep(time.Hour)
		f.wantLeft("being read", 2)
		if err := reader.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * justUsed)
		f.wantLeft("read", 0)
	})
}

// What a pin keeps may stay for ever: nothing goes in vain, now or later.
func TestAWishForRoomThatAPinStandsInTheWayOfIsDropped(t *testing.T) {
	onAFullDisk(t, 11*kib, 2, func(f *full) {
		if err := f.SetRoot("pin", f.blobs[0]); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		f.noteFull(unix.ENOSPC, 30*kib)
		f.wantLeft("pinned", 2)
		if err := f.DeleteRoot("pin"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		f.wantLeft("nobody wishes any more", 2)
	})
}

// Others may make room while a wish stands.
func TestAWishForRoomEndsWhenThereIsRoom(t *testing.T) {
	onAFullDisk(t, 11*kib, 2, func(f *full) {
		f.noteFull(unix.ENOSPC, 20*kib)
		f.wantLeft("used just now", 2)
		f.free.Store(100 * kib)
		time.Sleep(2 * justUsed)
		f.wantLeft("there is room", 2)
		f.free.Store(11 * kib)
		time.Sleep(time.Hour)
		f.wantLeft("the wish is over", 2)
	})
}

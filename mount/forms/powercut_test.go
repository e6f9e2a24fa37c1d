package forms

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/mount/erofs"
)

// disk is an ext4 in a file, mounted through loop, whose power can be cut.
type disk struct{ file, folder string }

func newDisk(t *testing.T) *disk {
	t.Helper()
	needMounts(t)
	d := &disk{filepath.Join(t.TempDir(), "disk"), t.TempDir()}
	must(t, os.WriteFile(d.file, nil, 0o600))
	must(t, os.Truncate(d.file, 256<<20))
	if out, err := exec.Command("/usr/sbin/mkfs.ext4", "-q", d.file).CombinedOutput(); err != nil {
		t.Skipf("NOT TESTED: no file system can be made: %v\n%s", err, out)
	}
	if err := d.mount(); err != nil {
		t.Skipf("NOT TESTED: this process may not mount a file system in a file: %v", err)
	}
	t.Cleanup(func() {
		_ = erofs.UnmountBelow(d.folder)
		_ = unix.Unmount(d.folder, unix.MNT_DETACH)
	})
	return d
}

func (d *disk) mount() error {
	out, err := exec.Command("/bin/mount", "-o", "loop", d.file, d.folder).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

const (
	// goingDown is the ioctl EXT4_IOC_SHUTDOWN: _IOR('X', 125, __u32).
	goingDown = 0x8004587d
	// noLogFlush: what is in memory alone is lost, the log included, as when the power fails.
	noLogFlush = 2
)

// cut cuts the power: nothing reaches the disk any more, and what had not is lost.
func (d *disk) cut() error {
	folder, err := os.Open(d.folder)
	if err != nil {
		return err
	}
	defer folder.Close()
	return unix.IoctlSetPointerInt(int(folder.Fd()), goingDown, noLogFlush)
}

// restore brings the disk back. Nobody may have a file on it open.
func (d *disk) restore(t *testing.T) {
	t.Helper()
	must(t, erofs.UnmountBelow(filepath.Join(d.folder, "rootfs")))
	eventually(t, "the disk can be unmounted", func() bool { return !errors.Is(unix.Unmount(d.folder, 0), unix.EBUSY) })
	must(t, d.mount())
}

// After a power cut at any moment every form that is lent is what was made: it
// was sealed, or it is made again under its number.
func TestPowerCut(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		d := newDisk(t)
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		root := filepath.Join(d.folder, "rootfs")
		var layers []*supply
		given, survived := map[uint64]int{}, 0 // numbers that snapshots have, by layer
		for round := range 6 {
			f := openForms(t, Options{Root: root, Kind: kind, BootID: fmt.Sprint("boot", round)}, layers...)
			ids := make([]uint64, 0, len(given))
			for id := range given {
				ids = append(ids, id)
			}
			missing := f.Rehold(map[string][]uint64{"snapshots": ids})
			for _, id := range missing {
				t.Errorf("round %d: form %d is unknown", round, id)
				delete(given, id)
			}
			for id, i := range given {
				path, err := f.Lower(t.Context(), id)
				must(t, err)
				wantContent(t, filepath.Join(path, "file"), noise(byte(i), 200_000))
			}
			survived += len(given) - int(f.Stats().MadeAgain)
			for range 5 + random.IntN(10) {
				i := len(layers)
				layers = append(layers, layerOf(t, regular("file", noise(byte(i), 200_000))))
				given[get(t, f, imageOf(layers[i]), "snapshots").ID] = i
			}
			if round%2 == 0 { // some of them sealed, others not
				time.Sleep(time.Duration(random.IntN(30)) * time.Millisecond)
			}
			must(t, d.cut())
			_ = f.Close() // with a disk that is gone
			d.restore(t)
		}
		t.Logf("%d layers; %d times a form was found as it was made", len(layers), survived)
		if survived == 0 {
			t.Error("no form outlived a power cut: nothing was put to the test")
		}
	})
}

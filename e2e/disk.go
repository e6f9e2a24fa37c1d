//go:build e2e

package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// disk is a file system in a file, mounted, whose power can be cut.
type disk struct {
	image  string
	folder string
	on     bool
}

// diskSize leaves room for all rounds of a test; the file is sparse. xfs wants 300 MB at least.
const diskSize = 3 << 30

// newDisk makes a file system of a kind, ext4 or xfs, and mounts it on a folder. The end of the test unmounts it.
func newDisk(t *testing.T, kind, folder string) *disk {
	t.Helper()
	d := &disk{image: filepath.Join(t.TempDir(), kind), folder: folder}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.image, diskSize); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	output(t, debian("mkfs."+kind), "-q", d.image)
	d.mount(t)
	t.Cleanup(func() {
		if d.on {
			// Lazily: a daemon that a failed test left behind must not keep it.
			_ = unix.Unmount(d.folder, unix.MNT_DETACH)
		}
	})
	return d
}

func (d *disk) mount(t *testing.T) {
	t.Helper()
	if out, err := exec.Command(debian("mount"), "-o", "loop", d.image, d.folder).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v\n%s", err, out)
	}
	d.on = true
}

const (
	// goingDown is the ioctl XFS_IOC_GOINGDOWN, which ext4 has by the name of EXT4_IOC_SHUTDOWN: _IOR('X', 125, __u32).
	goingDown = 0x8004587d
	// noLogFlush: what is in memory alone is lost, the log included, as when the power fails.
	noLogFlush = 2
)

// cut cuts the power: from now on nothing reaches the disk, and what had not is lost.
func (d *disk) cut() error {
	folder, err := os.Open(d.folder)
	if err != nil {
		return err
	}
	defer folder.Close()
	return unix.IoctlSetPointerInt(int(folder.Fd()), goingDown, noLogFlush)
}

// restore brings a disk back whose power was cut: it is unmounted, its log replayed, and mounted. Nobody may have a file on it open.
func (d *disk) restore(t *testing.T) {
	t.Helper()
	eventually(t, "the disk can be unmounted", func() error {
		err := unix.Unmount(d.folder, 0)
		if errors.Is(err, unix.EBUSY) {
			return err // the kernel is still closing the files of a killed process
		}
		if err != nil {
			t.Fatalf("unmount: %v", err)
		}
		return nil
	})
	d.on = false
	d.mount(t)
}

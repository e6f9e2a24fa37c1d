//go:build e2e

package e2e

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A daemon that starts on a file system that is mounted read-only serves what is there, with no upstream too, sends the rest past the store,
// acknowledges no pin, and keeps again, without a restart, when the file system can be written.
func TestStartOnAReadOnlyFileSystem(t *testing.T) {
	o := newOrigin()
	here, other := o.image(t, "here", 1<<20, 91), o.image(t, "other", 1<<20, 92)
	d := newDaemon(t, o.serve(t))
	if err := os.Mkdir(d.root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", d.root, "tmpfs", 0, "size=64m,mode=0700"); err != nil {
		t.Fatalf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(d.root, 0); err != nil {
			t.Error(err)
		}
	})
	d.start(t)
	d.requireHeld(t, newClient(t, d.addr), "here", here)
	reference, next := upstreamName+"/team/app:here", upstreamName+"/team/app:other"
	d.mustRun(t, "pin", reference)
	d.proc.stop()
	remount(t, d.root, unix.MS_RDONLY)
	d.start(t)
	c := newClient(t, d.addr)
	asked := o.count(here[2])
	c.mustPull(t, "team/app", "here")
	c.mustPull(t, "team/app", "other")
	if n := asked.Load(); n != 0 {
		t.Errorf("upstream was asked %d times for what is here", n)
	}
	if d.holds(other[2]) {
		t.Error("a blob was kept on a read-only file system")
	}
	if err := d.ready(); err != nil {
		t.Errorf("it serves all the same: %v", err)
	}
	if code, said := d.mustFail(t, "pin", next); code != 1 || !strings.Contains(said, "read-only") {
		t.Errorf("pin: %d, %s", code, said)
	}
	if pins := d.mustRun(t, "pins"); !strings.Contains(pins, reference) {
		t.Errorf("pins: %s", pins)
	}
	remount(t, d.root, 0)
	d.requireHeld(t, c, "other", other)
	d.mustRun(t, "pin", next)
	d.restart(t)
	if pins := d.mustRun(t, "pins"); strings.Count(pins, "complete") != 2 {
		t.Errorf("pins after a restart: %s", pins)
	}
	d.requireTrueStore(t)
}

func remount(t *testing.T, folder string, flags uintptr) {
	t.Helper()
	eventually(t, "the file system can be mounted anew", func() error {
		err := unix.Mount("", folder, "", unix.MS_REMOUNT|flags, "")
		if err != nil && !errors.Is(err, unix.EBUSY) { // the kernel is still closing files of a process that ended
			t.Fatal(err)
		}
		return err
	})
}

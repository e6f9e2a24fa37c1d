//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Containers run on while imagecache and containerd are killed, in either order; both come back, and know what they had; new containers
// start; and when all is removed, nothing is left.
func TestKillNineWhileContainersRun(t *testing.T) {
	for _, form := range unpackedForms(t) {
		t.Run(form, func(t *testing.T) {
			upstream := startRegistry(t, nil)
			images := pair(t, upstream)
			d := startUnpacking(t, upstream.url(), form)
			c := startSnapshotting(t, containerd24, d, false)
			t.Cleanup(func() { killShims(t, c) })
			before := traces(t, d)
			images[0].mustArrive(t, c)
			c.ctr(t, "run", "-d", "--snapshotter", c.snapshotter, images[0].reference(), "counter", "/bin/sh", "-c",
				"i=0; while :; do i=$((i+1)); echo $i > /count; busybox sleep 0.05; done")
			for _, kill := range []func(){d.proc.kill, c.proc.kill} {
				kill()
				requireCounting(t, c, "counter")
			}
			d.start(t)
			c.start(t)
			if got := c.ctr(t, "task", "ls"); !strings.Contains(got, "counter") || !strings.Contains(got, "RUNNING") {
				t.Errorf("containerd knows of these tasks:\n%s", got)
			}
			if got := c.exec(t, "counter", "/bin/cat", "/greeting"); got != images[0].prints {
				t.Errorf("the container reads %q", got)
			}
			for _, image := range images { // one that was pulled before, and one that was not
				image.mustArrive(t, c)
			}
			d.proc.kill()
			d.start(t)
			requireReconnected(t, c)
			c.destroy(t, "counter")
			for _, image := range images {
				c.ctr(t, "images", "rm", "--sync", image.reference())
			}
			requireNoTraces(t, d)
			if after := traces(t, d); !slices.Equal(before, after) {
				t.Errorf("before there was\n%s\nand now\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
			}
			if left := mountsUnder(t, c.dir); len(left) > 0 {
				t.Errorf("containerd left mounts: %v", left)
			}
		})
	}
}

// requireReconnected waits for a containerd that was there while its snapshotter was away: it tries again after a pause that grows to 3 s.
func requireReconnected(t *testing.T, c *containerd) {
	t.Helper()
	eventually(t, "containerd has its snapshotter again", func() error {
		out, err := exec.Command(c.version.program("ctr"), "--address", c.socket, "snapshots", "--snapshotter", c.snapshotter, "list").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// requireCounting wants a container to go on counting, as seen in its root filesystem, which is mounted in the folder of its task.
func requireCounting(t *testing.T, c *containerd, id string) {
	t.Helper()
	path := filepath.Join(c.dir, "state", "io.containerd.runtime.v2.task", "default", id, "rootfs", "count")
	read := func() (int, error) {
		content, err := os.ReadFile(path)
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(strings.TrimSpace(string(content)))
	}
	first := -1
	eventually(t, "the container counts on", func() error {
		n, err := read()
		if err != nil { // it may just be writing
			return err
		}
		if first < 0 {
			first = n
		}
		if n <= first {
			return errors.New("it stands still")
		}
		return nil
	})
}

// killShims ends what outlives a containerd: its shims, known by the socket that they are told. Their containers end with them or are the
// next in the list.
func killShims(t *testing.T, c *containerd) {
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Error(err)
	}
	for _, path := range commands {
		command, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(command), "-address\x00"+c.socket+"\x00") || !strings.Contains(string(command), "shim") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended meanwhile
		}
	}
}

// A power cut of another kind: the folder of one unpacked layer is gone. It is made again before it is mounted, from the blob that is here.
func TestLostLayerIsMadeAgain(t *testing.T) {
	upstream := startRegistry(t, nil)
	images := pair(t, upstream)
	d := startUnpacking(t, upstream.url(), formDirectory)
	c := startSnapshotting(t, containerd24, d, false)
	images[0].mustArrive(t, c)
	eventually(t, "the layers are here for good", func() error {
		for _, hash := range blobsOf(t, images[0].runs) {
			if !d.holds(hash) {
				return fmt.Errorf("%s is not", hash)
			}
		}
		return nil
	})
	upstream.proc.kill()
	d.proc.kill()
	lost, err := filepath.Glob(filepath.Join(d.root, "rootfs", "layers", "f*"))
	if err != nil || len(lost) == 0 {
		t.Fatal(fmt.Errorf("no unpacked layers: %w", err))
	}
	for _, dir := range lost {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	d.start(t)
	requireReconnected(t, c)
	if got := c.run(t, images[0].reference()); got != images[0].prints {
		t.Errorf("it printed %q", got)
	}
	c.ctr(t, "images", "rm", "--sync", images[0].reference())
}

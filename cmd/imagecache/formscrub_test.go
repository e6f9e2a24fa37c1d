package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/api"
	"github.com/imagecache/imagecache/mount/erofs"
	"github.com/imagecache/imagecache/registry"
	"github.com/imagecache/imagecache/registry/registrytest"
)

const appImage = "up.example/team/app:v1"

// unpackingHouse is a daemon that unpacks ahead, and the registry before which it stands.
type unpackingHouse struct {
	*testing.T
	up     *registrytest.Registry
	folder string
	args   []string
	daemon *runningDaemon
	layers [][]byte
	form   string
}

// newUnpackingHouse has an image of two layers pulled and unpacked.
func newUnpackingHouse(t *testing.T, form string, args ...string) *unpackingHouse {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: only root may unpack layers")
	}
	h := &unpackingHouse{T: t, up: registrytest.New(t, registrytest.Options{}), folder: ownFolder(t), form: form}
	h.needEROFS()
	h.layers = [][]byte{layerWith(t, "lower", 0), layerWith(t, "upper", 1)}
	h.up.AddImage("team/app", "v1", h.layers...)
	h.args = append([]string{"--upstream", "up.example=" + h.up.URL(), "--snapshotter", filepath.Join(h.folder, "n"),
		"--snapshotter-form", form, "--store-min-free", "0"}, args...)
	h.daemon = startDaemon(t, h.folder, h.args...)
	t.Cleanup(h.unmount)
	h.command(exitDone, "pull", appImage)
	h.eventually("both layers are unpacked, durably", func() bool { return h.scrubbed("--all").Forms.Forms == 2 })
	return h
}

func (h *unpackingHouse) needEROFS() {
	h.Helper()
	if h.form != "erofs" {
		return
	}
	if s := erofs.Probe(filepath.Join(h.folder, "probe")); s.Way == erofs.None {
		h.Skipf("NOT TESTED: EROFS cannot be mounted here: %v", s)
	}
}

// unmount leaves no mount behind in a folder that is about to be deleted.
func (h *unpackingHouse) unmount() {
	mounts, _ := erofs.Below(h.folder)
	for _, m := range mounts {
		_ = erofs.Unmount(m.Target)
	}
}

// layerWith is a tar of one file.
func layerWith(t *testing.T, name string, seed byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, content := tar.NewWriter(&out), registrytest.Bytes(seed, 200_000)
	err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg})
	_, wrote := w.Write(content)
	if err = errors.Join(err, wrote, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// command runs the program beside the daemon and gives what it prints.
func (h *unpackingHouse) command(status int, args ...string) (out string) {
	h.Helper()
	var stdout, stderr bytes.Buffer
	c := exec.Command("imagecache", append(args, "--admin", unixScheme+h.daemon.socket)...)
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); c.ProcessState == nil || c.ProcessState.ExitCode() != status {
		_ = h.daemon.process.Process.Kill()
		h.daemon.wait(h.T)
		h.Fatalf("imagecache %s: %v, want status %d\n%s%s\nlog of the daemon:\n%s", strings.Join(args, " "), err, status, &stdout, &stderr, h.daemon.log)
	}
	return stdout.String()
}

func (h *unpackingHouse) scrubbed(args ...string) api.Scrubbed {
	h.Helper()
	var answer api.Scrubbed
	decodeInto(h.T, h.command(exitDone, append([]string{"scrub", "-o", "json"}, args...)...), &answer)
	if answer.Forms == nil {
		h.Fatal("a scrub tells nothing of unpacked layers")
	}
	return answer
}

func decodeInto(t *testing.T, text string, to any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), to); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}

func (h *unpackingHouse) eventually(what string, ok func() bool) {
	h.Helper()
	for deadline := time.Now().Add(3 * patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.Fatalf("not yet: %s", what)
		}
	}
}

// rot changes a byte of the content of the upper layer, in its form.
func (h *unpackingHouse) rot() {
	h.Helper()
	rotten := 0
	err := filepath.WalkDir(filepath.Join(h.folder, "root/rootfs"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() != "upper" && !strings.HasSuffix(path, ".erofs") {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		at := bytes.Index(content, registrytest.Bytes(1, 200_000)[:4096])
		if at < 0 {
			return nil
		}
		rotten++
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte{^content[at+100]}, int64(at+100))
		return errors.Join(err, f.Close())
	})
	if err != nil || rotten != 1 {
		h.Fatalf("%d forms were damaged, %v", rotten, err)
	}
}

func eachForm(t *testing.T, test func(t *testing.T, form string)) {
	for _, form := range []string{"directory", "erofs"} {
		t.Run(form, func(t *testing.T) { t.Parallel(); test(t, form) })
	}
}

func TestScrubMendsUnpackedLayers(t *testing.T) {
	t.Parallel()
	eachForm(t, func(t *testing.T, form string) {
		h := newUnpackingHouse(t, form)
		if out := h.command(exitDone, "scrub", "--all"); !strings.Contains(out, "in 2 unpacked layers, 0 damaged, 0 unpacked again\n") {
			t.Errorf("sound, it prints %s", out)
		}
		h.rot()
		if done := h.scrubbed(); done.Forms.Forms != 0 {
			t.Errorf("what was proven a moment ago is read again: %+v", done.Forms)
		}
		if out := h.command(exitDone, "scrub", "--all"); !strings.Contains(out, "in 2 unpacked layers, 1 damaged, 1 unpacked again\n") {
			t.Errorf("rotten, it prints %s", out)
		}
		h.eventually("the new form is durable, and sound", func() bool {
			done := h.scrubbed("--all").Forms
			return done.Forms == 2 && done.Rotten == 0
		})
		h.wantStatus(func(s *api.SnapshotterStatus) bool { return s.Rotten == 1 && s.Scrubbed > 400_000 })
		h.stop()
	})
}

// wantStatus looks at what the daemon tells of the snapshotter.
func (h *unpackingHouse) wantStatus(ok func(*api.SnapshotterStatus) bool) {
	h.Helper()
	var status struct {
		Snapshotter *api.SnapshotterStatus `json:"snapshotter"`
	}
	out := h.command(exitDone, "status", "-o", "json")
	if decodeInto(h.T, out, &status); status.Snapshotter == nil || !ok(status.Snapshotter) {
		h.Errorf("status: %s", out)
	}
}

func (h *unpackingHouse) stop() {
	h.Helper()
	h.daemon.signal(h.T, syscall.SIGTERM)
	if status := h.daemon.wait(h.T); status != exitDone {
		h.Errorf("the daemon ended with %d:\n%s", status, h.daemon.log)
	}
}

// compressed is how many layers are here as the registry gave them.
func (h *unpackingHouse) compressed() (n int) {
	h.Helper()
	for _, l := range h.layers {
		if exists(filepath.Join(h.folder, "root/blobs/sha256", digest.FromBytes(l).Encoded())) {
			n++
		}
	}
	return n
}

func (h *unpackingHouse) image() registry.Image {
	h.Helper()
	var answer struct {
		Images []registry.Image `json:"images"`
	}
	decodeInto(h.T, h.command(exitDone, "images", "-o", "json"), &answer)
	if len(answer.Images) != 1 {
		h.Fatalf("images: %+v", answer)
	}
	return answer.Images[0]
}

// A layer that is unpacked is dropped compressed; the image is complete all the
// same, also after a kill, and when a form rots its layer is fetched again.
func TestUnpackedLayersAreDropped(t *testing.T) {
	t.Parallel()
	h := newUnpackingHouse(t, "directory", "--snapshotter-drop-layers", "all", "--snapshotter-drop-after", "1s")
	h.command(exitDone, "pin", appImage)
	h.wantDropped()
	h.daemon.signal(t, syscall.SIGKILL)
	h.daemon.wait(t)
	h.up.Stop()
	h.daemon = startDaemon(t, h.folder, h.args...)
	h.wantDropped()

	h.rot() // without a registry nothing can be done about it
	if out := h.command(exitFailed, "scrub", "--all"); !strings.Contains(out, "1 damaged, 0 unpacked again") || !strings.Contains(out, "NOT UNPACKED AGAIN BECAUSE") {
		t.Errorf("it prints %s", out)
	}
	if out := h.command(exitFailed, "drill"); !strings.Contains(out, "FAILS") {
		t.Errorf("a form is rotten, and drill says %s", out)
	}
	h.up.Start(t)
	h.eventually("the form is made again", func() bool {
		done := h.scrubbed("--all").Forms
		return len(done.Unmade) == 0 && done.Forms == 2
	})
	h.wantDropped()
	h.stop()
}

// wantDropped wants no layer compressed, and the image told as complete nevertheless.
func (h *unpackingHouse) wantDropped() {
	h.Helper()
	h.eventually("both layers are dropped", func() bool { return h.compressed() == 0 && h.image().Dropped == 2 })
	if i := h.image(); !i.Complete || !i.Pinned {
		h.Errorf("%+v", i)
	}
	for command, want := range map[string]string{"images": "complete, 2 unpacked only", "pins": "complete, 2 unpacked only", "inspect": "dropped, unpacked here", "drill": "dropped, unpacked here"} {
		args := []string{command}
		if command == "inspect" {
			args = append(args, appImage)
		}
		if out := h.command(exitDone, args...); !strings.Contains(out, want) {
			h.Errorf("%s does not say %q: %s", command, want, out)
		}
	}
}

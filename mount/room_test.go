package mount_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	cmount "github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/mount"
	"github.com/imagecache/imagecache/mount/forms"
)

// needMounts skips a test where the kernel lets us mount nothing.
func needMounts(t testing.TB) {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Skipf("SKIPPED, AND NOT TESTED AT ALL: mounting is refused here (%v); run it as root", err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
}

// room is everything that one daemon has open of root filesystems.
type room struct {
	*mount.Snapshotter
	t      testing.TB
	root   string
	kind   string
	forms  *forms.Forms
	shelf  *shelf
	wait   time.Duration // for a layer; 0: the default
	closed bool
}

// newRoom opens a room in a folder of the test's.
func newRoom(t testing.TB, kind string) *room {
	t.Helper()
	needMounts(t)
	return openRoom(t, filepath.Join(t.TempDir(), "rootfs"), kind, newShelf())
}

func openRoom(t testing.TB, root, kind string, shelf *shelf) *room {
	t.Helper()
	r := &room{t: t, root: root, kind: kind, shelf: shelf}
	r.open()
	return r
}

func (r *room) open() {
	r.t.Helper()
	log := slog.New(slog.NewTextHandler(logOf{r.t}, nil))
	var err error
	// No blob is here: whatever is not in use goes when space is wanted.
	here := func(digest.Digest) bool { return false }
	if r.forms, err = forms.Open(forms.Options{Root: r.root, Kind: r.kind, Here: here, Log: log}); err != nil {
		r.t.Fatal(err)
	}
	if r.Snapshotter, err = mount.Open(mount.Options{Root: r.root, Forms: r.forms, Images: r.shelf, PrepareWait: r.wait, Log: log}); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(r.stop)
}

// stop ends the daemon, and what a boot would end besides.
func (r *room) stop() {
	r.close()
	unmountBelow(r.t, r.root)
}

// close ends the daemon: mounts stay.
func (r *room) close() {
	if r.closed {
		return
	}
	r.closed = true
	if err := errors.Join(r.Snapshotter.Close(), r.forms.Close()); err != nil {
		r.t.Error(err)
	}
}

// again is the daemon started anew.
func (r *room) again() *room {
	r.t.Helper()
	r.close()
	return openRoom(r.t, r.root, r.kind, r.shelf)
}

// unmountBelow unmounts what is mounted below a folder, the last first.
func unmountBelow(t testing.TB, root string) {
	t.Helper()
	for _, at := range slices.Backward(mountsBelow(t, root)) {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", at, err)
		}
	}
}

func mountsBelow(t testing.TB, root string) (list []string) {
	t.Helper()
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(content) {
		if fields := bytes.Fields(line); len(fields) > 4 && bytes.HasPrefix(fields[4], []byte(root+"/")) {
			list = append(list, string(fields[4]))
		}
	}
	return list
}

// see mounts and gives what a file holds.
func see(t testing.TB, mounts []cmount.Mount, name string) string {
	t.Helper()
	var content []byte
	within(t, mounts, func(dir string) {
		var err error
		if content, err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	})
	return string(content)
}

// within mounts for as long as f runs.
func within(t testing.TB, mounts []cmount.Mount, f func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	if err := cmount.All(mounts, dir); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cmount.UnmountAll(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	f(dir)
}

// shelf holds images in memory, as the mirror does on its disk.
type shelf struct {
	mu     sync.Mutex // guards what follows
	chains map[digest.Digest][]forms.Layer
	images map[string]mount.Image
	opened atomic.Int64
	hold   chan struct{} // nil, or layers are given when it is closed
	fail   error         // what opening a layer gives
}

func newShelf() *shelf {
	return &shelf{chains: map[digest.Digest][]forms.Layer{}, images: map[string]mount.Image{}}
}

func (s *shelf) Chain(_ context.Context, chain digest.Digest) ([]forms.Layer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	layers, known := s.chains[chain]
	if !known {
		return nil, mount.ErrUnknown
	}
	return layers, nil
}

func (s *shelf) RootFS(_ context.Context, ref, _ string) (mount.Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	image, known := s.images[ref]
	if !known {
		return mount.Image{}, fmt.Errorf("%s is unknown", ref)
	}
	return image, nil
}

// withhold keeps layers back until what it returns is called.
func (s *shelf) withhold() (give func()) {
	hold := make(chan struct{})
	s.set(func() { s.hold = hold })
	return sync.OnceFunc(func() { close(hold); s.set(func() { s.hold = nil }) })
}

func (s *shelf) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// put puts an image of some layers on the shelf; each is a list of files.
func (s *shelf) put(t testing.TB, ref string, layers ...[]file) []digest.Digest {
	t.Helper()
	image := mount.Image{Ref: ref, Digest: digest.FromString(ref), Platform: "linux/amd64", Config: []byte(`{"os":"linux"}`)}
	var diffs []digest.Digest
	for _, files := range layers {
		plain, packed := pack(t, files)
		diffs = append(diffs, digest.FromBytes(plain))
		image.Layers = append(image.Layers, forms.Layer{DiffID: digest.FromBytes(plain), Open: s.opener(packed),
			Blob: specs.Descriptor{MediaType: specs.MediaTypeImageLayerGzip, Digest: digest.FromBytes(packed), Size: int64(len(packed))}})
	}
	chains := identity.ChainIDs(slices.Clone(diffs))
	s.set(func() {
		for i, chain := range chains {
			s.chains[chain] = image.Layers[: i+1 : i+1]
		}
		s.images[ref] = image
	})
	return chains
}

func (s *shelf) opener(packed []byte) func(context.Context) (io.ReadCloser, error) {
	return func(ctx context.Context) (io.ReadCloser, error) {
		s.opened.Add(1)
		s.mu.Lock()
		hold, fail := s.hold, s.fail
		s.mu.Unlock()
		if fail != nil {
			return nil, fail
		}
		if hold != nil {
			select {
			case <-hold:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		return io.NopCloser(bytes.NewReader(packed)), nil
	}
}

// file is one name in a layer; one that ends in a slash is a folder.
type file struct{ name, content string }

func pack(t testing.TB, files []file) (plain, packed []byte) {
	t.Helper()
	var b, z bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.content)), Typeflag: tar.TypeReg}
		if f.name[len(f.name)-1] == '/' {
			h.Mode, h.Typeflag = 0o755, tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.content); err != nil {
			t.Fatal(err)
		}
	}
	g := gzip.NewWriter(&z)
	if err := errors.Join(w.Close(), writeAll(g, b.Bytes()), g.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), z.Bytes()
}

func writeAll(w io.Writer, content []byte) error {
	_, err := w.Write(content)
	return err
}

// logOf writes the log of a room into that of a test.
type logOf struct{ t testing.TB }

func (l logOf) Write(line []byte) (int, error) {
	l.t.Log(string(bytes.TrimSpace(line)))
	return len(line), nil
}

// ref is the label by which containerd names the layer that it wants.
func ref(chain digest.Digest) snapshots.Opt {
	return snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: chain.String()})
}

// eventually waits for something that is to happen.
func eventually(t testing.TB, what string, happened func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !happened(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("there was no %s", what)
		}
	}
}

func has(dir, name string) bool {
	_, err := os.Lstat(filepath.Join(dir, name))
	return err == nil
}

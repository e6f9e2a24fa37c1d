package forms

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/mount/erofs"
)

// supply is one layer, and says how its bytes come.
type supply struct {
	diffID digest.Digest
	blob   []byte
	opens  atomic.Int64
	// read, when set, stands between the blob and who reads it, by the number of the opening, from 1.
	read func(ctx context.Context, opening int64, r io.Reader) io.Reader
}

func (s *supply) layer() Layer {
	return Layer{
		DiffID: s.diffID,
		Blob:   specs.Descriptor{MediaType: specs.MediaTypeImageLayerGzip, Digest: digest.FromBytes(s.blob), Size: int64(len(s.blob))},
		Open:   s.open,
	}
}

func (s *supply) open(ctx context.Context) (io.ReadCloser, error) {
	opening := s.opens.Add(1)
	var r io.Reader = bytes.NewReader(s.blob)
	if s.read != nil {
		r = s.read(ctx, opening, r)
	}
	return io.NopCloser(r), nil
}

// imageOf are the layers, base first.
func imageOf(layers ...*supply) []Layer {
	image := make([]Layer, len(layers))
	for i, s := range layers {
		image[i] = s.layer()
	}
	return image
}

// file is one entry of a layer.
type file struct {
	header  tar.Header
	content []byte
}

func regular(name, content string) file {
	return file{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(1_600_000_000, 0)}, []byte(content)}
}

func folder(name string) file {
	return file{tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(1_600_000_000, 0)}, nil}
}

func hardLink(name, target string) file {
	return file{tar.Header{Name: name, Linkname: target, Typeflag: tar.TypeLink, Mode: 0o644}, nil}
}

// layerOf packs entries.
func layerOf(t testing.TB, files ...file) *supply {
	t.Helper()
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	for _, f := range files {
		f.header.Size = int64(len(f.content))
		must(t, w.WriteHeader(&f.header))
		_, err := w.Write(f.content)
		must(t, err)
	}
	must(t, w.Close())
	return &supply{diffID: digest.FromBytes(plain.Bytes()), blob: pack(t, plain.Bytes())}
}

func pack(t testing.TB, plain []byte) []byte {
	t.Helper()
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	must(t, err)
	_, err = w.Write(plain)
	must(t, err)
	must(t, w.Close())
	return packed.Bytes()
}

// noise does not compress, and is the same for the same seed.
func noise(seed byte, size int) string {
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(content) // never fails
	return string(content)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// openForms opens forms that the test closes, unless it did itself. What a
// layer was last asked of is what Options.Blob gives.
func openForms(t testing.TB, o Options, layers ...*supply) *Forms {
	t.Helper()
	if o.Kind == "" {
		o.Kind = KindDirectory
	}
	if o.SealDelay == 0 {
		o.SealDelay = time.Millisecond
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Blob == nil && layers != nil {
		o.Blob = func(ctx context.Context, diffID digest.Digest, blob specs.Descriptor) (io.ReadCloser, error) {
			for _, s := range layers {
				if s.diffID == diffID && digest.FromBytes(s.blob) == blob.Digest {
					return s.open(ctx)
				}
			}
			return nil, errors.New("not in this test")
		}
	}
	f, err := Open(o)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// newRoot is a folder for forms, in which nothing stays mounted.
func newRoot(t testing.TB) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "rootfs")
	t.Cleanup(func() {
		if err := erofs.UnmountBelow(root); err != nil {
			t.Error(err)
		}
	})
	return root
}

// eachKind runs a test for both kinds of forms.
func eachKind(t *testing.T, test func(t *testing.T, kind string)) {
	t.Run(KindDirectory, func(t *testing.T) { test(t, KindDirectory) })
	t.Run(KindEROFS, func(t *testing.T) {
		needEROFS(t)
		test(t, KindEROFS)
	})
}

var support = sync.OnceValue(func() erofs.Support {
	dir, err := os.MkdirTemp("", "forms-probe")
	if err != nil {
		return erofs.Support{Why: err.Error()}
	}
	return erofs.Probe(dir)
})

// needEROFS skips, loudly, where EROFS cannot be mounted.
func needEROFS(t testing.TB) {
	t.Helper()
	if s := support(); s.Way == erofs.None {
		t.Skipf("NOT TESTED: %s", s)
	}
}

// needMounts skips, loudly, where nothing can be mounted.
func needMounts(t testing.TB) {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("NOT TESTED: this process may not mount: %v", err)
	}
	must(t, unix.Unmount(dir, 0))
}

func get(t testing.TB, f *Forms, image []Layer, user string) Form {
	t.Helper()
	form, err := f.Get(t.Context(), image, user)
	must(t, err)
	return form
}

// rowOf is the row of a form as it is now.
func rowOf(f *Forms, id uint64) row {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.forms[id].row
}

// lower is the folder of a form, which is held for it.
func lower(t testing.TB, f *Forms, id uint64) string {
	t.Helper()
	must(t, f.Hold(id, "test"))
	path, err := f.Lower(t.Context(), id)
	must(t, err)
	return path
}

func wantContent(t testing.TB, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s: %d bytes, want %d; %v", path, len(got), len(want), err)
	}
}

// eventually polls, for half a minute at most.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// wantSealed waits until all forms are sealed and have their digests.
func wantSealed(t testing.TB, f *Forms) {
	t.Helper()
	eventually(t, "all forms are sealed", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, m := range f.forms {
			if m.row.Sealed.IsZero() || m.row.Digest == "" {
				return false
			}
		}
		return true
	})
}

// wantTidy waits until nothing lies in the folders of what is made and dropped.
func wantTidy(t testing.TB, f *Forms) {
	t.Helper()
	eventually(t, "making/ and dropped/ are empty", func() bool {
		return len(names(f.at.making())) == 0 && len(names(f.at.dropped())) == 0
	})
}

// wantForms compares what lies below layers/ with what should.
func wantForms(t testing.TB, f *Forms, count int) {
	t.Helper()
	if found := names(f.at.layers()); len(found) != count {
		t.Errorf("below layers/ lie %v, want %d", found, count)
	}
	if s := f.Stats(); s.Forms[KindDirectory]+s.Forms[KindEROFS] != count {
		t.Errorf("there are %v, want %d", s.Forms, count)
	}
}

func wantReason(t testing.TB, err error, reason string) {
	t.Helper()
	var failed *MakeError
	if !errors.As(err, &failed) || failed.Reason != reason {
		t.Errorf("error %v, want one by reason %q", err, reason)
	}
}

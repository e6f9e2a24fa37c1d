// Package storetest holds the behaviour of a blob store as tests that any
// implementation passes, and a scripted source to test with.
//
// Every test runs in a bubble of testing/synctest: pauses and deadlines cost no
// time, and "nothing more happens" is an event, not a wait.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Store is what the suite tests. *layerstore.Store is one.
type Store interface {
	Fetcher
	Keeper
	Graph
	io.Closer
}

// Fetcher brings blobs from sources.
type Fetcher interface {
	Fetch(ctx context.Context, desc specs.Descriptor, src layerstore.Source) (*layerstore.Blob, error)
	Ensure(ctx context.Context, desc specs.Descriptor, src layerstore.Source, progress func(done, total int64)) error
}

// Keeper keeps and tells of sealed blobs.
type Keeper interface {
	Put(ctx context.Context, desc specs.Descriptor, content []byte, refs ...digest.Digest) error
	Stat(d digest.Digest) (layerstore.Info, error)
	ReadAll(d digest.Digest, limit int64) ([]byte, error)
	Remove(tops, keep []digest.Digest) (layerstore.Freed, error)
}

// Graph knows which blobs belong together.
type Graph interface {
	SetRefs(parent digest.Digest, children []digest.Digest) error
	Refs(parent digest.Digest) ([]digest.Digest, error)
	Closure(from ...digest.Digest) (map[digest.Digest]bool, error)
	SetRoot(name string, d digest.Digest) error
	DeleteRoot(name string) error
	ChangeRoots(set map[string]digest.Digest, gone []string) error
	Roots() (map[string]digest.Digest, error)
}

// Run runs the suite. open opens the store at root, a folder that is absent or
// was one's before; the suite closes it.
func Run(t *testing.T, open func(t *testing.T, root string) Store) {
	for _, part := range []struct {
		name  string
		tests []test
	}{
		{"fetch", fetchTests},
		{"truth", truthTests},
		{"broken source", brokenTests},
		{"ranges", rangeTests},
		{"keep", keepTests},
		{"graph", graphTests},
		{"restart", restartTests},
	} {
		t.Run(part.name, func(t *testing.T) {
			for _, test := range part.tests {
				t.Run(test.name, func(t *testing.T) {
					root := t.TempDir()
					synctest.Test(t, func(t *testing.T) {
						h := &house{T: t, open: open, root: filepath.Join(root, "store")}
						h.start()
						defer h.stop()
						test.run(h)
					})
				})
			}
		})
	}
}

type test struct {
	name string
	run  func(h *house)
}

// house is one test's store and what it needs around it.
type house struct {
	*testing.T
	open  func(t *testing.T, root string) Store
	root  string
	store Store // nil while stopped
}

func (h *house) start() {
	h.Helper()
	h.store = h.open(h.T, h.root)
}

func (h *house) stop() {
	h.Helper()
	if h.store == nil {
		return
	}
	if err := h.store.Close(); err != nil {
		h.Errorf("close: %v", err)
	}
	h.store = nil
}

// restart is a clean end and a new beginning of the process.
func (h *house) restart() {
	h.Helper()
	h.stop()
	h.start()
}

// cut is a crash at this instant: the next store finds a copy of what the disk
// holds now, which the running one has not been asked to finish.
func (h *house) cut() {
	h.Helper()
	copied := h.root + "-cut"
	h.must(os.CopyFS(copied, os.DirFS(h.root)))
	h.stop()
	h.root = copied
	h.start()
}

func (h *house) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// blob is size bytes that no other blob of the test shares, and its descriptor.
func blob(size int) ([]byte, specs.Descriptor) {
	content := make([]byte, size)
	var seed [32]byte
	copy(seed[:], "imagecache")
	_, _ = rand.NewChaCha8(seed).Read(content) // never fails
	return content, describe(content)
}

func describe(content []byte) specs.Descriptor {
	return specs.Descriptor{
		MediaType: specs.MediaTypeImageLayerGzip, Digest: digest.FromBytes(content), Size: int64(len(content)),
	}
}

// fetch opens a blob that is to be closed at the end of the test.
func (h *house) fetch(desc specs.Descriptor, src layerstore.Source) *layerstore.Blob {
	h.Helper()
	b, err := h.store.Fetch(h.Context(), desc, src)
	h.must(err)
	h.Cleanup(func() { b.Close() })
	return b
}

// wantWhole reads a blob to its end and compares.
func (h *house) wantWhole(b *layerstore.Blob, want []byte) {
	h.Helper()
	if b.Size() != int64(len(want)) {
		h.Errorf("size %d, want %d", b.Size(), len(want))
	}
	got, err := io.ReadAll(b)
	if err != nil {
		h.Fatalf("read: %v after %d of %d bytes", err, len(got), len(want))
	}
	if !bytes.Equal(got, want) {
		h.Fatal("wrong bytes")
	}
}

// wantCut reads a blob that must not be completed; it gives the error.
func (h *house) wantCut(b *layerstore.Blob) error {
	h.Helper()
	n, err := io.Copy(io.Discard, b)
	if err == nil {
		h.Fatalf("the blob was completed, with %d of %d bytes", n, b.Size())
	}
	if n >= b.Size() {
		h.Errorf("all %d bytes were given before the error %v", n, err)
	}
	return err
}

// wantAbsent checks that nothing of a digest is found.
func (h *house) wantAbsent(d digest.Digest) {
	h.Helper()
	if _, err := h.store.Stat(d); !errors.Is(err, layerstore.ErrNotFound) {
		h.Errorf("stat of %s: %v, want not found", d, err)
	}
	if _, err := h.store.Fetch(h.Context(), specs.Descriptor{Digest: d}, nil); !errors.Is(err, layerstore.ErrNotFound) {
		h.Errorf("fetch of %s without a source: %v, want not found", d, err)
	}
}

// wantHit checks that a digest is sealed and gives its bytes without a source.
func (h *house) wantHit(desc specs.Descriptor, want []byte) {
	h.Helper()
	b := h.fetch(desc, nil)
	if b.Outcome() != layerstore.Hit {
		h.Errorf("outcome %v, want a hit", b.Outcome())
	}
	h.wantWhole(b, want)
	info, err := h.store.Stat(desc.Digest)
	h.must(err)
	if info.Size != int64(len(want)) || info.Digest != desc.Digest {
		h.Errorf("stat %+v", info)
	}
}

// wantRefused fetches a blob that must not be completed; the error may come
// before there is a reader.
func (h *house) wantRefused(desc specs.Descriptor, src layerstore.Source) error {
	h.Helper()
	b, err := h.store.Fetch(h.Context(), desc, src)
	if err != nil {
		return err
	}
	defer b.Close()
	return h.wantCut(b)
}

func (h *house) wantRequests(s *Source, want ...Request) {
	h.Helper()
	got := s.Requests()
	if len(got) != len(want) {
		h.Fatalf("the source was asked %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			h.Fatalf("the source was asked %v, want %v", got, want)
		}
	}
}

package layerstore_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// album is a blob that refers to others, as a manifest does.
type album struct{ Album []digest.Digest }

const albumType = "application/vnd.test.album+json"

func describeAlbum(content []byte) (string, []digest.Digest, bool) {
	var a album
	err := json.Unmarshal(content, &a)
	return albumType, a.Album, err == nil && len(a.Album) > 0
}

// shelf is a closed store with enough blobs for an index of many pages, and one
// album of two of them.
type shelf struct {
	root  string
	blobs [][]byte
	album []byte
	pair  []digest.Digest
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	s := &shelf{root: t.TempDir()}
	for i := range 60 {
		s.blobs = append(s.blobs, fmt.Appendf(nil, "blob %d", i))
	}
	s.pair = []digest.Digest{digest.FromBytes(s.blobs[3]), digest.FromBytes(s.blobs[4])}
	slices.Sort(s.pair)
	s.album, _ = json.Marshal(album{s.pair}) // two strings
	store := s.open(t)
	var puts errgroup.Group // side by side they share their syncs
	for _, content := range s.blobs {
		puts.Go(func() error { return store.Put(t.Context(), describe(content), content) })
	}
	must(t, puts.Wait())
	desc := describe(s.album)
	desc.MediaType = albumType
	must(t, store.Put(t.Context(), desc, s.album, s.pair...))
	must(t, store.SetRoot("pin", desc.Digest))
	desc.Annotations = map[string]string{layerstore.RootAnnotation: "pin"}
	must(t, store.SetIndex([]specs.Descriptor{desc}))
	must(t, store.Close())
	return s
}

// copied is the same shelf in another place.
func (s *shelf) copied(t *testing.T) *shelf {
	t.Helper()
	c := *s
	c.root = filepath.Join(t.TempDir(), "copy")
	must(t, os.CopyFS(c.root, os.DirFS(s.root)))
	return &c
}

func (s *shelf) open(t *testing.T) *layerstore.Store {
	t.Helper()
	return open(t, layerstore.Options{Root: s.root, Describe: describeAlbum})
}

func (s *shelf) index() string { return filepath.Join(s.root, "layerstore.db") }

// wantWhole wants everything of the shelf to be there.
func (s *shelf) wantWhole(t *testing.T, store *layerstore.Store) {
	t.Helper()
	var size int64
	for _, content := range append(s.blobs, s.album) {
		got, err := store.ReadAll(digest.FromBytes(content), 1000)
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%q: %q, %v", content, got, err)
		}
		if _, err := store.Stat(digest.FromBytes(content)); err != nil {
			t.Error(err)
		}
		size += int64(len(content))
	}
	wantStats(t, store, int64(len(s.blobs)+1), size)
	s.wantAlbum(t, store)
}

func (s *shelf) wantAlbum(t *testing.T, store *layerstore.Store) {
	t.Helper()
	d := digest.FromBytes(s.album)
	if info, err := store.Stat(d); err != nil || info.MediaType != albumType {
		t.Errorf("stat of the album %+v, %v", info, err)
	}
	refs, err := store.Refs(d)
	slices.Sort(refs)
	if err != nil || !slices.Equal(refs, s.pair) {
		t.Errorf("the album refers to %v, %v; want %v", refs, err, s.pair)
	}
	if roots, err := store.Roots(); err != nil || len(roots) != 1 || roots["pin"] != d {
		t.Errorf("roots %v, %v", roots, err)
	}
}

func garbage(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{5}).Read(b) // never fails
	return b
}

func TestIndexIsRebuilt(t *testing.T) {
	whole := newShelf(t)
	for name, damage := range map[string]func(index []byte) []byte{
		"half":    func(b []byte) []byte { return b[:len(b)/2] },
		"empty":   func([]byte) []byte { return nil },
		"garbage": func(b []byte) []byte { return garbage(len(b)) },
		"a row":   func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(`{"size":`), []byte(`{"size"!`)) },
		"a key":   func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("sha256:"), []byte("sha257:")) },
	} {
		t.Run(name, func(t *testing.T) { whole.copied(t).wantRebuilt(t, damage) })
	}
	t.Run("missing", func(t *testing.T) {
		s := whole.copied(t)
		must(t, os.Remove(s.index()))
		store := s.open(t)
		defer store.Close()
		s.wantWhole(t, store)
	})
}

func TestIndexIsRebuiltWhicheverPageIsLost(t *testing.T) {
	whole := newShelf(t)
	content, err := os.ReadFile(whole.index())
	must(t, err)
	for at := 0; at < len(content); at += os.Getpagesize() {
		if len(bytes.Trim(content[at:at+os.Getpagesize()], "\x00")) == 0 {
			continue // nothing to lose
		}
		t.Run(fmt.Sprint("page ", at/os.Getpagesize()), func(t *testing.T) {
			whole.copied(t).wantRebuilt(t, func(b []byte) []byte { clear(b[at : at+os.Getpagesize()]); return b })
		})
	}
}

func (s *shelf) wantRebuilt(t *testing.T, damage func([]byte) []byte) {
	t.Helper()
	index, err := os.ReadFile(s.index())
	must(t, err)
	must(t, os.WriteFile(s.index(), damage(index), 0o600))
	for range 2 { // what was rebuilt lasts
		store := s.open(t)
		s.wantWhole(t, store)
		must(t, store.Close())
	}
}

func TestDamagedIndexIsKeptAside(t *testing.T) {
	s := newShelf(t)
	for i := range 4 {
		must(t, os.WriteFile(s.index(), fmt.Appendf(nil, "damaged %d", i), 0o600))
		must(t, s.open(t).Close())
	}
	kept, err := filepath.Glob(s.index() + ".damaged-*")
	must(t, err)
	if len(kept) != 2 {
		t.Fatalf("kept %v, want two files", kept)
	}
	if content, err := os.ReadFile(kept[1]); err != nil || string(content) != "damaged 3" {
		t.Errorf("the newest is %q, %v", content, err)
	}
}

func TestRebuildTakesInNothingWrong(t *testing.T) {
	s := newShelf(t)
	rotten := digest.FromBytes(s.blobs[9])
	must(t, os.WriteFile(blobPath(s.root, rotten), []byte("blob X"), 0o600))
	must(t, os.Remove(s.index()))
	store := s.open(t)
	defer store.Close()
	wantUnknown(t, store, rotten)
	s.wantAlbum(t, store)
}

// A kill between a file's name and its row leaves a file that nobody told of.
func TestWhatAFileRefersToIsLearnedFromIt(t *testing.T) {
	s := newShelf(t)
	other, err := json.Marshal(album{s.pair[:1]})
	must(t, err)
	must(t, os.WriteFile(blobPath(s.root, digest.FromBytes(other)), other, 0o600))
	store := s.open(t)
	defer store.Close()
	refs, err := store.Refs(digest.FromBytes(other))
	if err != nil || !slices.Equal(refs, s.pair[:1]) {
		t.Errorf("refers to %v, %v", refs, err)
	}
}

// A rebuilt index must not make everything look as if it were used just now.
func TestTakenInBlobIsAsOldAsItsFile(t *testing.T) {
	s := newShelf(t)
	d, came := digest.FromBytes(s.blobs[7]), time.Date(2025, 6, 7, 8, 9, 10, 0, time.UTC)
	must(t, os.Chtimes(blobPath(s.root, d), came, came))
	must(t, os.Remove(s.index()))
	store := s.open(t)
	defer store.Close()
	if info, err := store.Stat(d); err != nil || !info.Sealed.Equal(came) || !info.Used.Equal(came) {
		t.Errorf("stat %+v, %v", info, err)
	}
}

func TestImageIndexIsReadBack(t *testing.T) {
	s := newShelf(t)
	store := s.open(t)
	defer store.Close()
	want := describe(s.album)
	want.Annotations = map[string]string{specs.AnnotationRefName: "album"}
	must(t, store.SetIndex([]specs.Descriptor{want}))
	if got, err := store.Index(); err != nil || len(got) != 1 || got[0].Digest != want.Digest || got[0].Annotations[specs.AnnotationRefName] != "album" {
		t.Errorf("read back %+v, %v", got, err)
	}
	must(t, os.WriteFile(filepath.Join(s.root, "index.json"), garbage(100), 0o600))
	var damaged *layerstore.StorageError
	if _, err := store.Index(); !errors.As(err, &damaged) {
		t.Errorf("error %v, want a storage error", err)
	}
}

package layerstore

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/layerstore/boltfile"
)

// refuseWrites gives the store an index that can be read and not written, a
// copy of its own, until the returned function puts that back.
func refuseWrites(t *testing.T, s *Store) (heal func()) {
	t.Helper()
	content, err := os.ReadFile(s.index.db.DB().Path())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "read-only.db")
	if err := os.WriteFile(path, content, 0o400); err != nil {
		t.Fatal(err)
	}
	readOnly, err := bolt.Open(path, 0, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	good := s.index.db
	swap := func(to *boltfile.File) {
		if err := s.commit.apart(func() { s.index.db = to }); err != nil {
			t.Fatal(err)
		}
	}
	swap(boltfile.Over(readOnly))
	return func() {
		swap(good)
		readOnly.Close()
	}
}

type bodyOf []byte

func (b bodyOf) Open(_ context.Context, offset, _ int64) (*Body, error) {
	part := io.NewSectionReader(readerAt(b), offset, int64(len(b))-offset)
	return &Body{ReadCloser: io.NopCloser(part), Offset: offset, Size: int64(len(b))}, nil
}

type readerAt []byte

func (r readerAt) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, r[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// A blob whose row cannot be written is here all the same, is found, and gets
// its row by itself when the index can be written again.
func TestRowsWaitForTheIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := t.TempDir()
		s, err := Open(Options{Root: root})
		if err != nil {
			t.Fatal(err)
		}
		heal := refuseWrites(t, s)
		content := []byte("a blob whose row is late")
		desc := specs.Descriptor{Digest: digest.FromBytes(content), Size: int64(len(content)), MediaType: "a/b"}
		b, err := s.Fetch(t.Context(), desc, bodyOf(content))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(b)
		b.Close()
		if err != nil || string(got) != string(content) || b.Outcome() != Miss {
			t.Errorf("%q, %v, %v", got, b.Outcome(), err)
		}
		synctest.Wait()
		wantLate(t, s, desc, true)
		var storage *StorageError
		if err := s.Ensure(t.Context(), desc, bodyOf(content), nil); !errors.As(err, &storage) {
			t.Errorf("ensure of a blob without a durable row: %v", err)
		}
		child := digest.FromString("a child")
		parent := []byte("a manifest")
		manifest := specs.Descriptor{Digest: digest.FromBytes(parent), Size: int64(len(parent))}
		if err := s.Put(t.Context(), manifest, parent, child); !errors.As(err, &storage) {
			t.Errorf("put: %v", err)
		}
		if s.Writable() == nil {
			t.Error("the store says that it can be written")
		}
		heal()
		wantLate(t, s, desc, true)
		time.Sleep(lateEvery) // of the bubble's clock: nothing else has to be sealed
		synctest.Wait()
		wantLate(t, s, desc, false)
		if refs, err := s.Refs(manifest.Digest); err != nil || len(refs) != 1 || refs[0] != child {
			t.Errorf("edges %v, %v", refs, err)
		}
		if stats, err := s.Stats(); err != nil || stats.Blobs != 2 {
			t.Errorf("%+v, %v", stats, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// wantLate checks that a blob is found, and where its row is.
func wantLate(t *testing.T, s *Store, desc specs.Descriptor, late bool) {
	t.Helper()
	info, err := s.Stat(desc.Digest)
	if err != nil || info.Size != desc.Size || info.MediaType != desc.MediaType {
		t.Errorf("stat: %+v, %v", info, err)
	}
	found := false
	err = s.Each(func(i Info) error {
		found = found || i.Digest == desc.Digest
		return nil
	})
	if err != nil || !found {
		t.Errorf("each: %v, %v", found, err)
	}
	if _, err := s.index.written(desc.Digest); errors.Is(err, ErrNotFound) != late {
		t.Errorf("row: %v, want late %v", err, late)
	}
}

func TestLateRowsAreBounded(t *testing.T) {
	var l lateRows
	for i := range lateMost + 10 {
		l.add([]sealed{{digest: digest.FromBytes([]byte{byte(i), byte(i >> 8)})}})
	}
	if n := len(l.list()); n != lateMost {
		t.Errorf("%d rows wait", n)
	}
	one, two := digest.FromString("1"), digest.FromString("2")
	l = lateRows{}
	l.add([]sealed{{one, row{Size: 1, MediaType: "a/b"}, []digest.Digest{two}, ""}})
	l.add([]sealed{{one, row{Size: 1}, []digest.Digest{two, one}, ""}})
	if got := l.list(); len(got) != 1 || len(got[0].refs) != 2 || got[0].row.MediaType != "a/b" {
		t.Errorf("%+v", got)
	}
}

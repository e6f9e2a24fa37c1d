package layerstore_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/storetest"
	"github.com/opencontainers/go-digest"
)

// A file that has its name is served at once; durable it is with its row.
func TestEnsureOfAFileWithoutRowWritesTheRow(t *testing.T) {
	root, content := t.TempDir(), []byte("named, not sealed")
	s := open(t, layerstore.Options{Root: root})
	defer s.Close()
	desc := describe(content)
	must(t, os.WriteFile(blobPath(root, desc.Digest), content, 0o600))
	must(t, s.Ensure(t.Context(), desc, nil, nil))
	if info, err := s.Stat(desc.Digest); err != nil || info.Size != desc.Size {
		t.Errorf("stat %+v, %v", info, err)
	}
	wantStats(t, s, 1, desc.Size)
}

func TestPutMendsAFileThatWasLost(t *testing.T) {
	root, content := t.TempDir(), []byte("manifest")
	s := open(t, layerstore.Options{Root: root})
	defer s.Close()
	desc := describe(content)
	must(t, s.Put(t.Context(), desc, content))
	must(t, os.Remove(blobPath(root, desc.Digest)))
	must(t, s.Put(t.Context(), desc, content))
	if got, err := s.ReadAll(desc.Digest, 100); err != nil || !bytes.Equal(got, content) {
		t.Errorf("read %q, %v", got, err)
	}
	wantStats(t, s, 1, desc.Size)
}

func TestFetchMendsAFileThatWasLost(t *testing.T) {
	root, content := t.TempDir(), random(mib)
	s := open(t, layerstore.Options{Root: root})
	defer s.Close()
	desc := describe(content)
	must(t, s.Ensure(t.Context(), desc, storetest.NewSource(content), nil))
	must(t, os.Remove(blobPath(root, desc.Digest)))
	must(t, s.Ensure(t.Context(), desc, storetest.NewSource(content), nil))
	if got, err := s.ReadAll(desc.Digest, mib); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	wantStats(t, s, 1, mib)
}

// A disk that cannot keep a blob costs the blob, not the pull.
func TestBlobThatCannotBeSealedIsServed(t *testing.T) {
	root, content := t.TempDir(), random(2*mib)
	s := open(t, layerstore.Options{Root: root})
	defer s.Close()
	desc := describe(content)
	hold := make(chan struct{})
	src := storetest.Always(content, storetest.Answer{HoldAt: mib, Hold: hold})
	b, err := s.Fetch(t.Context(), desc, src)
	must(t, err)
	defer b.Close()
	ensured := make(chan error, 1)
	progress := make(chan struct{}, 1)
	go func() {
		ensured <- s.Ensure(t.Context(), desc, src, func(int64, int64) {
			select {
			case progress <- struct{}{}:
			default:
			}
		})
	}()
	<-progress // it follows the flight
	folder := filepath.Join(root, "blobs", "sha256")
	must(t, os.Rename(folder, folder+"-away"))
	close(hold)
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	var storage *layerstore.StorageError
	if err := <-ensured; !errors.As(err, &storage) {
		t.Errorf("ensure: %v, want a storage error", err)
	}
	must(t, os.Rename(folder+"-away", folder))
	wantUnknown(t, s, desc.Digest)
	must(t, s.Ensure(t.Context(), desc, storetest.NewSource(content), nil))
	wantStats(t, s, 1, desc.Size)
}

// Whatever the order in which a blob is put and removed, its row and its file
// go together.
func TestPutAndRemoveInParallelAgree(t *testing.T) {
	root, content := t.TempDir(), []byte("put and removed")
	s := open(t, layerstore.Options{Root: root})
	defer s.Close()
	desc := describe(content)
	for range 30 {
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				if err := s.Put(t.Context(), desc, content); err != nil {
					t.Error(err)
				}
			})
			both.Go(func() {
				if _, err := s.Remove([]digest.Digest{desc.Digest}, nil); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
		_, err := s.Stat(desc.Digest)
		if file := exists(t, blobPath(root, desc.Digest)); file != (err == nil) {
			t.Fatalf("file there: %v; row: %v", file, err)
		}
	}
}

// A blob may be removed again before its reader has opened it, and again: that
// is an error. Other bytes, or fewer without an error, it never is.
func TestFetchAndRemoveInParallelGiveTrueBytes(t *testing.T) {
	content := random(300 << 10)
	s := open(t, layerstore.Options{Root: t.TempDir()})
	defer s.Close()
	desc := describe(content)
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for range 20 {
				got, err := fetchAll(t, s, content)
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if err != nil || !bytes.Equal(got, content) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			}
		})
	}
	done, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := s.Remove([]digest.Digest{desc.Digest}, nil); err != nil {
				t.Error(err)
			}
		}
	}()
	readers.Wait()
	close(stop)
	<-done
	if got, err := fetchAll(t, s, content); err != nil || !bytes.Equal(got, content) {
		t.Errorf("at the end: %d bytes, %v", len(got), err)
	}
}

func fetchAll(t *testing.T, s *layerstore.Store, content []byte) ([]byte, error) {
	b, err := s.Fetch(t.Context(), describe(content), storetest.NewSource(content))
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return io.ReadAll(b)
}

func TestManyBlobsAtOnceAreSealed(t *testing.T) {
	root := t.TempDir()
	s := open(t, layerstore.Options{Root: root})
	defer s.Close()
	all := random(100 * 1000)
	var layers sync.WaitGroup
	for i := range 100 {
		content := all[i*1000:][:1000]
		layers.Go(func() {
			if err := s.Ensure(t.Context(), describe(content), storetest.NewSource(content), nil); err != nil {
				t.Error(err)
			}
		})
	}
	layers.Wait()
	wantStats(t, s, 100, 100*1000)
	st, err := s.Stats()
	must(t, err)
	if st.Fetched != 100*1000 || st.Flights != 0 || st.Partial != 0 || st.Capacity == 0 || s.Fetched() != st.Fetched {
		t.Errorf("stats %+v", st)
	}
	must(t, s.Writable())
}

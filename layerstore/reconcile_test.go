package layerstore_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/storetest"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// made is a closed store at root that holds the given blobs.
func made(t *testing.T, root string, blobs ...[]byte) {
	t.Helper()
	s := open(t, layerstore.Options{Root: root})
	for _, content := range blobs {
		must(t, s.Put(t.Context(), describe(content), content))
	}
	must(t, s.Close())
}

func blobPath(root string, d digest.Digest) string {
	return filepath.Join(root, "blobs", d.Algorithm().String(), d.Encoded())
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

func wantStats(t *testing.T, s *layerstore.Store, blobs, size int64) {
	t.Helper()
	st, err := s.Stats()
	must(t, err)
	if st.Blobs != blobs || st.Bytes != size {
		t.Errorf("%d blobs of %d bytes, want %d of %d", st.Blobs, st.Bytes, blobs, size)
	}
}

func wantUnknown(t *testing.T, s *layerstore.Store, d digest.Digest) {
	t.Helper()
	if _, err := s.Stat(d); !errors.Is(err, layerstore.ErrNotFound) {
		t.Errorf("stat: %v, want not found", err)
	}
	if _, err := s.Fetch(t.Context(), specs.Descriptor{Digest: d}, nil); !errors.Is(err, layerstore.ErrNotFound) {
		t.Errorf("fetch: %v, want not found", err)
	}
}

func TestFileWithoutRowIsTakenIn(t *testing.T) {
	root, content := t.TempDir(), []byte("put here by somebody")
	made(t, root)
	desc := describe(content)
	must(t, os.WriteFile(blobPath(root, desc.Digest), content, 0o600))
	s := open(t, layerstore.Options{Root: root})
	defer s.Close()
	info, err := s.Stat(desc.Digest)
	if err != nil || info.Size != desc.Size {
		t.Errorf("stat %+v, %v", info, err)
	}
	wantStats(t, s, 1, desc.Size)
	// What the file could not tell is learned when it is put again.
	must(t, s.Put(t.Context(), desc, content))
	if info, err := s.Stat(desc.Digest); err != nil || info.MediaType != desc.MediaType {
		t.Errorf("stat after put %+v, %v", info, err)
	}
	wantStats(t, s, 1, desc.Size)
}

func TestRowWithoutFileIsDropped(t *testing.T) {
	root, lost, kept := t.TempDir(), []byte("lost"), []byte("kept blob")
	made(t, root, lost, kept)
	must(t, os.Remove(blobPath(root, digest.FromBytes(lost))))
	s := open(t, layerstore.Options{Root: root})
	defer s.Close()
	wantUnknown(t, s, digest.FromBytes(lost))
	wantStats(t, s, 1, int64(len(kept)))
}

func TestWrongFileWithoutRowIsRemoved(t *testing.T) {
	root := t.TempDir()
	made(t, root)
	d := digest.FromString("right")
	must(t, os.WriteFile(blobPath(root, d), []byte("wrong"), 0o600))
	s := open(t, layerstore.Options{Root: root})
	defer s.Close()
	wantUnknown(t, s, d)
	if exists(t, blobPath(root, d)) {
		t.Error("the wrong file is still there")
	}
}

func TestFileShorterThanItsRowIsRemoved(t *testing.T) {
	root, content := t.TempDir(), bytes.Repeat([]byte("x"), 1000)
	made(t, root, content)
	d := digest.FromBytes(content)
	must(t, os.Truncate(blobPath(root, d), 500))
	s := open(t, layerstore.Options{Root: root})
	defer s.Close()
	wantUnknown(t, s, d)
	wantStats(t, s, 0, 0)
}

func TestLeftoversAreDropped(t *testing.T) {
	root := t.TempDir()
	made(t, root)
	hex := digest.FromString("x").Encoded()
	left := []string{
		"index.json.123.tmp", "ingest/put-1.tmp", "ingest/probe-2.tmp",
		"ingest/sha256-" + hex + ".part", "ingest/sha512-" + hex + ".journal",
	}
	for _, name := range left {
		must(t, os.WriteFile(filepath.Join(root, name), []byte("left"), 0o600))
	}
	s := open(t, layerstore.Options{Root: root})
	defer s.Close()
	for _, name := range left {
		if exists(t, filepath.Join(root, name)) {
			t.Errorf("%s is still there", name)
		}
	}
}

func TestOldPartialFileIsDroppedAndAYoungOneKept(t *testing.T) {
	for _, c := range []struct {
		name string
		age  time.Duration
		kept bool
	}{{"young", 6 * 24 * time.Hour, true}, {"old", 8 * 24 * time.Hour, false}} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			leaveHalf(t, root)
			later := func() time.Time { return time.Now().Add(c.age) }
			s := open(t, layerstore.Options{Root: root, Now: later})
			defer s.Close()
			st, err := s.Stats()
			must(t, err)
			if (st.Partial == 1) != c.kept || (st.PartialBytes > 0) != c.kept {
				t.Errorf("%d partial files of %d bytes", st.Partial, st.PartialBytes)
			}
			journals, err := filepath.Glob(filepath.Join(root, "ingest", "*.journal"))
			if err != nil || (len(journals) == 1) != c.kept {
				t.Errorf("journals %v, %v", journals, err)
			}
		})
	}
}

// leaveHalf makes a store with a partial file of 2 MiB.
func leaveHalf(t *testing.T, root string) {
	t.Helper()
	s := open(t, layerstore.Options{Root: root})
	content := random(4 * mib)
	src := storetest.Always(content, storetest.Answer{HoldAt: 2 * mib})
	b, err := s.Fetch(t.Context(), describe(content), src)
	must(t, err)
	defer b.Close()
	_, err = b.ReadAt(make([]byte, 2*mib), 0)
	must(t, err)
	must(t, s.Close())
}

func TestTimesOfUseSurviveARestart(t *testing.T) {
	root, content := t.TempDir(), []byte("used")
	d := digest.FromBytes(content)
	made(t, root, content)
	at := time.Date(2033, 4, 5, 6, 7, 8, 0, time.UTC)
	s := open(t, layerstore.Options{Root: root, Now: func() time.Time { return at }})
	b, err := s.Fetch(t.Context(), describe(content), nil)
	must(t, err)
	must(t, b.Close())
	wantUsed(t, s, d, at)
	must(t, s.Close())
	s = open(t, layerstore.Options{Root: root})
	defer s.Close()
	wantUsed(t, s, d, at)
}

func wantUsed(t *testing.T, s *layerstore.Store, d digest.Digest, at time.Time) {
	t.Helper()
	if info, err := s.Stat(d); err != nil || !info.Used.Equal(at) {
		t.Errorf("used %v, %v; want %v", info.Used, err, at)
	}
	must(t, s.Each(func(info layerstore.Info) error {
		if !info.Used.Equal(at) {
			t.Errorf("used %v, want %v", info.Used, at)
		}
		return nil
	}))
}

func TestTimesOfUseAreWrittenEveryNowAndThen(t *testing.T) {
	root, copied := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	synctest.Test(t, func(t *testing.T) {
		s := open(t, layerstore.Options{Root: root})
		defer s.Close()
		content := []byte("used")
		d := digest.FromBytes(content)
		must(t, s.Put(t.Context(), describe(content), content))
		time.Sleep(10 * time.Minute) // the bubble's clock
		used := time.Now()
		s.Touch(d)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		must(t, os.CopyFS(copied, os.DirFS(root))) // as a crash would leave it
		crashed := open(t, layerstore.Options{Root: copied})
		defer crashed.Close()
		wantUsed(t, crashed, d, used)
	})
}

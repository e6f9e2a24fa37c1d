package layerstore

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// mounted is a file system of its own that can be made read-only.
type mounted string

func mountTmpfs(t *testing.T) mounted {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: a read-only file system has to be mounted by root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16m,mode=0700"); err != nil {
		t.Fatalf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return mounted(dir)
}

func (m mounted) remount(t *testing.T, flags uintptr) {
	t.Helper()
	if err := unix.Mount("", string(m), "", unix.MS_REMOUNT|flags, ""); err != nil {
		t.Fatalf("remount: %v", err)
	}
}

func (m mounted) open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(Options{Root: string(m), LookEvery: -1, ScrubRate: -1})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustClose(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// requireRead fetches content and tells how that went.
func requireRead(t *testing.T, s *Store, content []byte, want Outcome) {
	t.Helper()
	b, err := s.Fetch(t.Context(), specs.Descriptor{Digest: digest.FromBytes(content)}, bodyOf(content))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("read %d of %d bytes: %v", len(got), len(content), err)
	}
	if b.outcome != want {
		t.Errorf("outcome %v, want %v", b.outcome, want)
	}
}

// stock makes a store of one blob, with a root, on m.
func (m mounted) stock(t *testing.T, content []byte) {
	t.Helper()
	s := m.open(t)
	requireRead(t, s, content, Miss)
	if err := s.Ensure(t.Context(), specs.Descriptor{Digest: digest.FromBytes(content)}, bodyOf(content), nil); err != nil {
		t.Fatal(err)
	}
	if err := s.SetRoot("kept", digest.FromBytes(content)); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
}

// A store on a read-only file system gives what is here, sends the rest past
// itself, promises nothing, and keeps again when it can.
func TestStoreOpensOnAReadOnlyFileSystem(t *testing.T) {
	here, other := bytes.Repeat([]byte("here"), 100_000), bytes.Repeat([]byte("other"), 100_000)
	m := mountTmpfs(t)
	m.stock(t, here)
	m.remount(t, unix.MS_RDONLY)
	s := m.open(t)
	requireRead(t, s, here, Hit)
	requireRead(t, s, other, Bypass)
	if err := s.SetRoot("promised", digest.FromBytes(here)); !errors.Is(err, unix.EROFS) {
		t.Errorf("a root that does not outlive the process: %v", err)
	}
	if _, err := Open(Options{Root: string(m)}); !errors.Is(err, ErrLocked) {
		t.Errorf("two stores of one root: %v", err)
	}
	mustClose(t, s)

	s = m.open(t)
	m.remount(t, 0)
	if err := s.Ensure(t.Context(), specs.Descriptor{Digest: digest.FromBytes(other)}, bodyOf(other), nil); err != nil {
		t.Errorf("the file system can be written: %v", err)
	}
	if err := s.SetRoot("promised", digest.FromBytes(other)); err != nil {
		t.Error(err)
	}
	err := s.index.db.View(func(tx *bolt.Tx) error {
		if tx.Bucket(bucketMeta).Get(keyStopped) != nil {
			t.Error("a kill now would be taken for a clean stop")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	mustClose(t, s)

	s = m.open(t)
	requireRead(t, s, other, Hit)
	roots, err := s.Roots()
	if err != nil || len(roots) != 2 || roots["promised"] != digest.FromBytes(other) {
		t.Errorf("roots %v, %v", roots, err)
	}
	mustClose(t, s)
}

// Files lead on a read-only file system too: without an index, or with one that
// is damaged, they are hashed and given.
func TestReadOnlyStoreWithoutASoundIndex(t *testing.T) {
	here := bytes.Repeat([]byte("here"), 100_000)
	for name, spoil := range map[string]func(path string) error{
		"gone":    os.Remove,
		"damaged": func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("?"), 20_000), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			m := mountTmpfs(t)
			m.stock(t, here)
			if err := spoil(string(m) + "/" + indexName); err != nil {
				t.Fatal(err)
			}
			m.remount(t, unix.MS_RDONLY)
			s := m.open(t)
			defer mustClose(t, s)
			if info, err := s.Stat(digest.FromBytes(here)); err != nil || info.Size != int64(len(here)) {
				t.Errorf("%+v, %v", info, err)
			}
			requireRead(t, s, here, Hit)
		})
	}
}

// A store of a later version is refused, and a folder without one too.
func TestReadOnlyRootsThatAreRefused(t *testing.T) {
	m := mountTmpfs(t)
	m.stock(t, []byte("here"))
	db, err := bolt.Open(string(m)+"/"+indexName, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(keySchema, []byte("99")) })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	m.remount(t, unix.MS_RDONLY)
	if _, err := Open(Options{Root: string(m)}); !errors.Is(err, ErrNewer) {
		t.Errorf("a later version: %v", err)
	}
	empty := mountTmpfs(t)
	empty.remount(t, unix.MS_RDONLY)
	if _, err := Open(Options{Root: string(empty)}); !errors.Is(err, unix.EROFS) {
		t.Errorf("an empty folder: %v", err)
	}
}

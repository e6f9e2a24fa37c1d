package layerstore

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// inMemory reports whether the page cache has the first page of a file. It
// asks mincore(2), which reads nothing.
func inMemory(t *testing.T, f *os.File) bool {
	t.Helper()
	page, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(page) }()
	var resident [1]byte
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&page[0])), uintptr(len(page)), uintptr(unsafe.Pointer(&resident[0])))
	if errno != 0 {
		t.Skip("this system does not tell what is in memory: ", errno)
	}
	return resident[0]&1 != 0
}

func TestReadingForAScrubLeavesThePageCacheAsItIs(t *testing.T) {
	content := bytes.Repeat([]byte("imagecache"), 300_000)
	d := digest.FromBytes(content)
	path := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf, err := newDirectBuffer()
	if err != nil {
		t.Fatal(err)
	}
	defer buf.free()
	scrub := func() {
		t.Helper()
		direct, err := openDirect(path)
		if err != nil {
			t.Fatal(err)
		}
		defer direct.close()
		var read int64
		err = direct.hash(d, int64(len(content)), buf, func(n int64) error { read += n; return nil })
		if err != nil || read != int64(len(content)) {
			t.Fatalf("%d bytes, %v", read, err)
		}
		if direct.cached {
			t.Skip("this file system is read through the page cache only")
		}
	}
	scrub() // what is written and not yet on the disk is seen too
	if !inMemory(t, f) {
		t.Error("pages that others use were pushed out")
	}
	if err := errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)); err != nil {
		t.Fatal(err)
	}
	if inMemory(t, f) {
		t.Skip("the pages stay in memory")
	}
	scrub()
	if inMemory(t, f) {
		t.Error("a scrub brought pages into memory")
	}
}

func TestFileThatIsReadThroughTheCache(t *testing.T) {
	content := bytes.Repeat([]byte("imagecache"), 300_000)
	path := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	direct := &directFile{f, true}
	defer direct.close()
	buf, err := newDirectBuffer()
	if err != nil {
		t.Fatal(err)
	}
	defer buf.free()
	tell := func(int64) error { return nil }
	d := digest.FromBytes(content)
	if err := direct.hash(d, int64(len(content)), buf, tell); err != nil {
		t.Error(err)
	}
	if err := direct.hash(digest.FromString("other"), int64(len(content)), buf, tell); err != wrongHash(d) {
		t.Errorf("%v", err)
	}
	if err := direct.hash(d, int64(len(content))+1, buf, tell); !damaged(err) {
		t.Errorf("a file that is too short: %v", err)
	}
}

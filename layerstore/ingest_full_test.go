package layerstore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// fill takes what is free on a file system, and gives it back by its result.
func (m mounted) fill(t *testing.T) (free func()) {
	t.Helper()
	path := filepath.Join(string(m), "ballast.tmp")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	piece := make([]byte, 4096)
	for err == nil {
		_, err = f.Write(piece)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// files are the names in ingest/.
func (m mounted) files(t *testing.T) (names []string) {
	t.Helper()
	found, err := os.ReadDir(filepath.Join(string(m), ingestName))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		names = append(names, f.Name())
	}
	return names
}

// TestIngestOnAFullDiskGoesOnWhenThereIsRoom: what came is kept, also by the next
// process, and nothing else is left.
func TestIngestOnAFullDiskGoesOnWhenThereIsRoom(t *testing.T) {
	disk := mountTmpfs(t)
	s := disk.open(t)
	content := make([]byte, 2<<20)
	for n := range content {
		content[n] = byte(n / 1000)
	}
	i, err := s.Ingest("x", specs.Descriptor{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Write(content[:1<<20]); err != nil {
		t.Fatal(err)
	}
	free := disk.fill(t)
	n, err := i.Write(content[1<<20:])
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("%d, %v", n, err)
	}
	if err := i.Close(); err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
	if _, err := s.Ingest("y", specs.Descriptor{}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("another one begins: %v", err)
	}
	mustClose(t, s)
	free()
	if left := disk.files(t); len(left) != 2 { // data and header of x
		t.Errorf("%q is left", left)
	}
	s = disk.open(t)
	defer mustClose(t, s)
	i, err = s.Ingest("x", specs.Descriptor{})
	if err != nil {
		t.Fatal(err)
	}
	at := i.Info().Offset
	if at != 1<<20+int64(n) {
		t.Errorf("goes on from %d, want %d", at, 1<<20+n)
	}
	if _, err := i.Write(content[at:]); err != nil {
		t.Fatal(err)
	}
	d := digest.FromBytes(content)
	if _, err := i.Commit(t.Context(), specs.Descriptor{Digest: d}); err != nil {
		t.Fatal(err)
	}
	if left := disk.files(t); len(left) != 0 {
		t.Errorf("%q is left", left)
	}
}

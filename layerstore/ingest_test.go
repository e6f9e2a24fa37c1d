package layerstore_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

func ingest(t *testing.T, s *layerstore.Store, name string, desc specs.Descriptor) *layerstore.Ingest {
	t.Helper()
	i, err := s.Ingest(name, desc)
	must(t, err)
	return i
}

func write(t *testing.T, i *layerstore.Ingest, p []byte) {
	t.Helper()
	n, err := i.Write(p)
	if err != nil || n != len(p) {
		t.Fatal(n, err)
	}
}

// crashed opens a copy of what the disk holds now, as a crash would leave it.
func crashed(t *testing.T, root string, before func(root string)) *layerstore.Store {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "copy")
	must(t, os.CopyFS(copied, os.DirFS(root)))
	if before != nil {
		before(copied)
	}
	s := open(t, layerstore.Options{Root: copied})
	t.Cleanup(func() { s.Close() })
	return s
}

func ingestData(t *testing.T, root string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "ingest", "write-*.data"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	return files[0]
}

// powerCut makes the ingests under root those of an earlier run of the kernel.
func powerCut(t *testing.T, root string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "ingest", "write-*.json"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		must(t, err)
		var header map[string]any
		must(t, json.Unmarshal(content, &header))
		header["boot"] = "another"
		content, err = json.Marshal(header)
		must(t, err)
		must(t, os.WriteFile(file, content, 0o600))
	}
}

// TestIngestGoesOnAfterAKill with every byte, and after a power cut with those
// that a sync vouches for, unless the announced digest will tell.
func TestIngestGoesOnAfterAKill(t *testing.T) {
	content := random(mib)
	kill := func(*testing.T, string) {}
	for _, c := range []struct {
		name  string
		desc  specs.Descriptor
		after func(*testing.T, string)
		kept  int64
	}{
		{"announced, killed", describe(content), kill, mib - 1}, {"announced, power cut", describe(content), powerCut, mib - 1},
		{"not announced, killed", specs.Descriptor{}, kill, mib - 1}, {"not announced, power cut", specs.Descriptor{}, powerCut, mib / 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			s := open(t, layerstore.Options{Root: root})
			defer s.Close()
			i := ingest(t, s, "x", c.desc)
			write(t, i, content[:mib/2])
			must(t, i.Close()) // synced up to here
			i = ingest(t, s, "x", c.desc)
			write(t, i, content[mib/2:mib-1])

			after := crashed(t, root, func(root string) { c.after(t, root) })
			wantGoesOn(t, after, c.desc, content, c.kept)
		})
	}
}

// wantGoesOn goes on with the ingest x of what a store was left, and seals it.
func wantGoesOn(t *testing.T, s *layerstore.Store, desc specs.Descriptor, content []byte, kept int64) {
	t.Helper()
	if info, err := s.StatIngest("x"); err != nil || info.Offset != kept {
		t.Errorf("stat %+v, %v; want offset %d", info, err, kept)
	}
	i := ingest(t, s, "x", desc)
	if got := i.Info().Offset; got != kept {
		t.Fatalf("goes on from %d, want %d", got, kept)
	}
	if i.Digest() != digest.FromBytes(content[:kept]) {
		t.Error("hash of other bytes than those that are there")
	}
	must(t, i.Close())
	i = ingest(t, s, "x", desc)
	write(t, i, content[kept:])
	_, err := i.Commit(t.Context(), describe(content))
	must(t, err)
	got, err := s.ReadAll(digest.FromBytes(content), int64(len(content)))
	if err != nil || !bytes.Equal(got, content) {
		t.Error("other bytes were sealed", err)
	}
}

// TestIngestIsMadeSafeOnItsWay: one long piece does not lose all to a power cut.
func TestIngestIsMadeSafeOnItsWay(t *testing.T) {
	root, content := t.TempDir(), random(66*mib)
	s := open(t, layerstore.Options{Root: root})
	defer s.Close()
	i := ingest(t, s, "x", specs.Descriptor{})
	for piece := range slices.Chunk(content[:65*mib], 256<<10) {
		write(t, i, piece)
	}
	after := crashed(t, root, func(root string) { powerCut(t, root) })
	wantGoesOn(t, after, specs.Descriptor{}, content, 64*mib)
}

// TestIngestIsHashedFromTheDiskAfterAPowerCut: a disk that did not keep what it
// said it had is found out before the blob is sealed.
func TestIngestIsHashedFromTheDiskAfterAPowerCut(t *testing.T) {
	root, content := t.TempDir(), random(mib)
	s := open(t, layerstore.Options{Root: root})
	defer s.Close()
	i := ingest(t, s, "x", specs.Descriptor{})
	write(t, i, content)
	must(t, i.Close())
	after := crashed(t, root, func(root string) {
		zero(t, ingestData(t, root), 1000, 4096)
		powerCut(t, root)
	})
	_, err := ingest(t, after, "x", specs.Descriptor{}).Commit(t.Context(), describe(content))
	if wrong := new(layerstore.DigestError); !errors.As(err, &wrong) {
		t.Fatalf("commit: %v, want a digest error", err)
	}
	wantUnknown(t, after, digest.FromBytes(content))
}

// TestIngestTellsWithoutWaiting: how far it has come is told while it is being
// hashed, or waits for the disk.
func TestIngestTellsWithoutWaiting(t *testing.T) {
	s := open(t, layerstore.Options{Root: t.TempDir()})
	defer s.Close()
	i := ingest(t, s, "x", specs.Descriptor{})
	write(t, i, []byte("begun"))
	layerstore.Held(i, func() {
		if info, err := s.StatIngest("x"); err != nil || info.Offset != 5 {
			t.Errorf("%+v, %v", info, err)
		}
	})
}

func TestIngestThatAPowerCutChangedIsNotSealedAndBeginsAnew(t *testing.T) {
	root, content := t.TempDir(), random(mib)
	s := open(t, layerstore.Options{Root: root})
	defer s.Close()
	write(t, ingest(t, s, "x", describe(content)), content[:mib/2])
	after := crashed(t, root, func(root string) {
		zero(t, ingestData(t, root), 1000, 4096)
		powerCut(t, root)
	})

	i := ingest(t, after, "x", describe(content))
	write(t, i, content[i.Info().Offset:])
	_, err := i.Commit(t.Context(), specs.Descriptor{})
	if wrong := new(layerstore.DigestError); !errors.As(err, &wrong) {
		t.Fatalf("commit: %v, want a digest error", err)
	}
	wantUnknown(t, after, digest.FromBytes(content))
	i = ingest(t, after, "x", describe(content))
	if got := i.Info().Offset; got != 0 {
		t.Fatalf("goes on from %d with bytes that are wrong", got)
	}
	write(t, i, content)
	_, err = i.Commit(t.Context(), specs.Descriptor{})
	must(t, err)
}

func TestIngestKeepsItsBytesWhenTheCommitIsWrong(t *testing.T) {
	s := open(t, layerstore.Options{Root: t.TempDir()})
	defer s.Close()
	content := []byte("content")
	for _, wrong := range []specs.Descriptor{{Digest: digest.FromString("other")}, {Digest: digest.SHA512.FromString("other")}, {Size: 3}} {
		i := ingest(t, s, "x", specs.Descriptor{})
		write(t, i, content[i.Info().Offset:])
		if _, err := i.Commit(t.Context(), wrong); err == nil {
			t.Fatalf("%+v was taken", wrong)
		}
	}
	i := ingest(t, s, "x", specs.Descriptor{})
	d, err := i.Commit(t.Context(), describe(content))
	if err != nil || d != digest.FromBytes(content) {
		t.Fatal(d, err)
	}
	i = ingest(t, s, "x", specs.Descriptor{})
	write(t, i, content)
	if _, err := i.Commit(t.Context(), specs.Descriptor{}); !errors.Is(err, layerstore.ErrExists) {
		t.Errorf("second commit: %v", err)
	}
	if left, err := s.Ingests(); err != nil || len(left) != 0 {
		t.Errorf("left %+v, %v", left, err)
	}
}

func TestOldAndTornIngestsAreDroppedAndYoungOnesKept(t *testing.T) {
	for _, c := range []struct {
		name  string
		age   time.Duration
		spoil func(base string) error
		kept  int
	}{
		{"young", 6 * 24 * time.Hour, func(string) error { return nil }, 2},
		{"old", 8 * 24 * time.Hour, func(string) error { return nil }, 0},
		{"torn header", 0, func(base string) error { return os.Truncate(base+".json", 20) }, 0},
		{"shorter than was synced", 0, func(base string) error { return os.Truncate(base+".data", 3) }, 0},
		{"no data", 0, func(base string) error { return os.Remove(base + ".data") }, 0},
		{"no header", 0, func(base string) error { return os.Remove(base + ".json") }, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			s := open(t, layerstore.Options{Root: root})
			write(t, ingest(t, s, "x", specs.Descriptor{}), random(mib)) // enough to be synced when it is left
			must(t, s.Close())
			data := ingestData(t, root)
			must(t, c.spoil(data[:len(data)-len(".data")]))
			later := func() time.Time { return time.Now().Add(c.age) }
			s = open(t, layerstore.Options{Root: root, Now: later})
			defer s.Close()
			files, err := os.ReadDir(filepath.Join(root, "ingest"))
			if err != nil || len(files) != c.kept {
				t.Errorf("%d files, %v; want %d", len(files), err, c.kept)
			}
			if _, err := s.StatIngest("x"); errors.Is(err, layerstore.ErrNotFound) != (c.kept == 0) {
				t.Errorf("stat: %v", err)
			}
			must(t, ingest(t, s, "x", specs.Descriptor{}).Close())
		})
	}
}

func TestIngestOfAClosedStoreIsRefused(t *testing.T) {
	s := open(t, layerstore.Options{Root: t.TempDir()})
	i := ingest(t, s, "x", specs.Descriptor{})
	must(t, s.Close())
	if _, err := i.Write([]byte("x")); !errors.Is(err, layerstore.ErrEnded) {
		t.Errorf("write: %v", err)
	}
	if err := i.Truncate(0); !errors.Is(err, layerstore.ErrEnded) {
		t.Errorf("truncate: %v", err)
	}
	must(t, i.Close())
	if _, err := s.Ingest("y", specs.Descriptor{}); !errors.Is(err, layerstore.ErrClosed) {
		t.Errorf("ingest: %v", err)
	}
	if err := s.AbortIngest("x"); !errors.Is(err, layerstore.ErrClosed) {
		t.Errorf("abort: %v", err)
	}
}

// TestIngestsInParallelSealTrueBytes lets writers of few names and few blobs
// meet aborts, deletes and each other.
func TestIngestsInParallelSealTrueBytes(t *testing.T) {
	root := t.TempDir()
	s := open(t, layerstore.Options{Root: root})
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			for round := range 20 {
				content := bytes.Repeat([]byte{byte('a' + (n+round)%3)}, 10_000)
				writeOnce(t, s, fmt.Sprint(round%2), content)
				if n == 0 {
					_ = s.AbortIngest("1")
					_ = s.Delete(digest.FromBytes(content))
				}
			}
		})
	}
	all.Wait()
	must(t, s.Close())
	s = open(t, layerstore.Options{Root: root})
	defer s.Close()
	must(t, s.Each(func(i layerstore.Info) error {
		got, err := s.ReadAll(i.Digest, i.Size)
		if err == nil && digest.FromBytes(got) != i.Digest {
			err = fmt.Errorf("%s holds other bytes", i.Digest)
		}
		return err
	}))
}

// writeOnce writes one blob; what others may do meanwhile is no error.
func writeOnce(t *testing.T, s *layerstore.Store, name string, content []byte) {
	i, err := s.Ingest(name, describe(content))
	if err != nil {
		if !errors.Is(err, layerstore.ErrBusy) && !errors.Is(err, layerstore.ErrExists) {
			t.Error("open:", err)
		}
		return
	}
	defer i.Close()
	_, err = io.Copy(i, bytes.NewReader(content[i.Info().Offset:]))
	if err == nil {
		_, err = i.Commit(t.Context(), describe(content))
	}
	if err != nil && !errors.Is(err, layerstore.ErrEnded) && !errors.Is(err, layerstore.ErrExists) {
		t.Error("write:", err)
	}
}

func TestDeleteOfAFileThatWasLostForgetsTheRow(t *testing.T) {
	root, content := t.TempDir(), []byte("lost")
	s := open(t, layerstore.Options{Root: root})
	defer s.Close()
	must(t, s.Put(t.Context(), describe(content), content))
	must(t, os.Remove(blobPath(root, digest.FromBytes(content))))
	must(t, s.Delete(digest.FromBytes(content)))
	wantUnknown(t, s, digest.FromBytes(content))
	wantStats(t, s, 0, 0)
	if err := s.Delete(digest.FromBytes(content)); !errors.Is(err, layerstore.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("second delete: %v", err)
	}
}

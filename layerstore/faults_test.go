package layerstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/storetest"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// faultyOperations are the system calls by which a store changes its files, and
// one by which it reads them. It writes by pwrite64 alone: write is what the
// runtime wakes itself with.
var faultyOperations = []string{
	"openat", "pwrite64", "fsync", "fdatasync", "/^rename", "/^unlink", "/^mkdir", "ftruncate", "pread64",
}

// faultRoot names the environment variable that holds the root of the store of
// a process whose file operations fail.
const faultRoot = "LAYERSTORE_TEST_FAULT_ROOT"

// longTests names the environment variable that asks for tests of many minutes.
const longTests = "LAYERSTORE_TEST_LONG"

// What a process with faults was promised; its exit status is promised plus these.
const (
	promised     = 32
	promisedPut  = 1
	promisedRoot = 2
	// notStarted is the exit status where the fault met the loading of the program.
	notStarted = 127
)

const faultSize = 2*mib + mib/2 // a blob with a journal

var faultManifest = []byte("a manifest that was put among faults")

// TestFaultAtEveryOperation lets the nth operation of every kind fail, for every
// n until it does not happen any more. Each reader gets true bytes, whatever fails,
// nothing wrong has the name of a blob, and what was promised is there. strace
// counts for each thread, so that now and then several operations fail in one run.
func TestFaultAtEveryOperation(t *testing.T) {
	if root := os.Getenv(faultRoot); root != "" {
		os.Exit(amongFaults(root))
	}
	if testing.Short() {
		t.Skip("some hundred processes")
	}
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatalf("strace is needed to make file operations fail: %v", err)
	}
	long := os.Getenv(longTests) != ""
	for i, operation := range faultyOperations {
		t.Run(strings.Trim(operation, "/^"), func(t *testing.T) {
			t.Parallel()
			for n := 1; ; n++ {
				errno := []string{"EIO", "ENOSPC"}[(n+i)%2]
				failed := faultAt(t, operation, errno, fmt.Sprint(n))
				if n == 1 && !failed {
					t.Error("no operation failed: the store was not put to the test")
				}
				// A disk that fails for good from there on; in a short while, from the first only.
				if long || n == 1 {
					faultAt(t, operation, errno, fmt.Sprint(n)+"+")
				}
				if long {
					faultAt(t, operation, []string{"EIO", "ENOSPC"}[(n+i+1)%2], fmt.Sprint(n))
				}
				if !failed || t.Failed() {
					break
				}
			}
		})
	}
}

// faultAt runs a process whose operations fail, and reports whether any did.
func faultAt(t *testing.T, operation, errno, when string) bool {
	t.Helper()
	root := filepath.Join(t.TempDir(), "store")
	trace := filepath.Join(t.TempDir(), "trace")
	child := exec.Command("strace", "-f", "-qq", "-o", trace, "-e", "trace="+operation,
		"-e", "inject="+operation+":error="+errno+":when="+when, os.Args[0], "-test.run=^TestFaultAtEveryOperation$")
	child.Env = append(os.Environ(), faultRoot+"="+root)
	out, err := child.CombinedOutput()
	status := child.ProcessState.ExitCode()
	switch {
	case status == notStarted:
	case status < promised || status > promised+promisedPut+promisedRoot:
		t.Errorf("%s at %s %s: %v\n%s", errno, operation, when, err, out)
	default:
		wantTrueStore(t, root, status-promised)
	}
	calls, err := os.ReadFile(trace)
	must(t, err)
	if t.Failed() {
		t.Logf("%s at %s %s:\n%s", errno, operation, when, calls)
	}
	return bytes.Contains(calls, []byte("(INJECTED)"))
}

// wantTrueStore opens what a process with faults left behind, without any.
func wantTrueStore(t *testing.T, root string, kept int) {
	t.Helper()
	wantTrueFiles(t, root)
	s := open(t, layerstore.Options{Root: root})
	defer s.Close()
	if kept&promisedPut != 0 {
		if got, err := s.ReadAll(digest.FromBytes(faultManifest), mib); err != nil || !bytes.Equal(got, faultManifest) {
			t.Errorf("what was put: %q, %v", got, err)
		}
		if refs, err := s.Refs(digest.FromBytes(faultManifest)); err != nil || len(refs) != 1 {
			t.Errorf("its edges: %v, %v", refs, err)
		}
	}
	if roots, err := s.Roots(); err != nil || kept&promisedRoot != 0 && len(roots) != 1 {
		t.Errorf("roots %v, %v", roots, err)
	}
	content := random(faultSize)
	must(t, s.Ensure(t.Context(), describe(content), storetest.NewSource(content), nil))
	wantBytes(t, s, describe(content), nil, content, layerstore.Hit)
	wantTrueFiles(t, root)
}

// wantTrueFiles hashes every file under blobs/.
func wantTrueFiles(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(root, "blobs"), func(path string, f fs.DirEntry, err error) error {
		if err != nil || f.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		d := digest.NewDigestFromEncoded(digest.Algorithm(filepath.Base(filepath.Dir(path))), f.Name())
		if err == nil && d.Algorithm().FromBytes(content) != d {
			t.Errorf("%s holds wrong bytes", path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// amongFaults is the life of a process whose file operations fail. It gives
// its exit status.
func amongFaults(root string) int {
	s, err := layerstore.Open(layerstore.Options{Root: root})
	if err != nil {
		return promised // a store that cannot be opened promised nothing
	}
	content := random(faultSize)
	src := storetest.NewSource(content)
	for range 2 { // cold, and then a hit unless it could not be kept
		if err := readTrue(s, describe(content), src, content); err != nil {
			fmt.Println(err)
			return 3
		}
	}
	kept := promised
	var storage *layerstore.StorageError
	manifest := specs.Descriptor{Digest: digest.FromBytes(faultManifest), Size: int64(len(faultManifest)), MediaType: specs.MediaTypeImageManifest}
	switch err := s.Put(context.Background(), manifest, faultManifest, describe(content).Digest); {
	case err == nil:
		kept |= promisedPut
	case !errors.As(err, &storage):
		fmt.Println(err)
		return 3
	}
	if s.SetRoot("kept", manifest.Digest) == nil {
		kept |= promisedRoot
	}
	_ = s.Close() // with faults it may fail; nothing that was promised hangs on it
	return kept
}

func readTrue(s *layerstore.Store, desc specs.Descriptor, src layerstore.Source, content []byte) error {
	b, err := s.Fetch(context.Background(), desc, src)
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	defer b.Close()
	got, err := io.ReadAll(b)
	var storage *layerstore.StorageError
	if errors.As(err, &storage) && storage.Op == "read back" && len(got) < len(content) {
		return nil // cut: what it was given cannot be read again, so nobody could prove it
	}
	if err != nil || !bytes.Equal(got, content) {
		return fmt.Errorf("%v: %d of %d bytes, %w", b.Outcome(), len(got), len(content), err)
	}
	return nil
}

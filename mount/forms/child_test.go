package forms

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// childKind and childBoot name the environment variables that tell a child process the kind of its forms, and its boot.
const (
	childKind = "FORMS_TEST_CHILD_KIND"
	childBoot = "FORMS_TEST_CHILD_BOOT"
	// longTests names the environment variable that asks for tests of many minutes.
	longTests = "FORMS_TEST_LONG"
)

// childLayers are what a child makes; the second needs the first below it.
func childLayers(t testing.TB) []*supply {
	return []*supply{
		layerOf(t, folder("d"), regular("d/file", noise(1, 300_000)), regular("d/small", "small")),
		layerOf(t, hardLink("link", "d/file")),
		layerOf(t, regular("third", noise(3, 50_000))),
	}
}

// childImages are the layers with those below, and the file in each that is looked at.
func childImages(layers []*supply) (images [][]Layer, files, contents []string) {
	return [][]Layer{imageOf(layers[0]), imageOf(layers[:2]...), imageOf(layers[2])},
		[]string{"d/file", "link", "third"}, []string{noise(1, 300_000), noise(1, 300_000), noise(3, 50_000)}
}

// child is the life of a process that makes forms and removes one. It gives its
// exit status: 0 also where it was refused something, for that is a miss.
func child(root string) int {
	f, err := Open(Options{Root: root, Kind: os.Getenv(childKind), BootID: os.Getenv(childBoot), SealDelay: time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return 0
	}
	f.Rehold(nil)
	images, files, contents := childImages(childLayers(&testing.B{}))
	for range 2 {
		for i, image := range images {
			if err := f.haveTrue(image, files[i], contents[i]); err != nil {
				fmt.Println(err)
				return 3
			}
		}
		f.sealedWithin(200 * time.Millisecond)
		f.Drop(blobsOf(images[2][0]))
	}
	_ = f.Close() // with faults it may fail
	return 0
}

// haveTrue gets a form and reads it. A form that cannot be made is a miss.
func (f *Forms) haveTrue(image []Layer, file, content string) error {
	form, err := f.Get(context.Background(), image, "child")
	defer f.Release("child")
	var failed *MakeError
	if errors.As(err, &failed) && failed.Reason != ReasonPanic && failed.Reason != ReasonDiffID {
		return nil
	}
	if err != nil {
		return err
	}
	path, err := f.Lower(context.Background(), form.ID)
	if err != nil {
		return nil // of mounting, or of making it again
	}
	got, err := os.ReadFile(filepath.Join(path, file))
	if err == nil && string(got) != content {
		return fmt.Errorf("form %d is wrong", form.ID)
	}
	return nil // what cannot be read is not wrong
}

func (f *Forms) sealedWithin(most time.Duration) {
	for end := time.Now().Add(most); time.Now().Before(end) && f.Stats().Unsealed > 0; time.Sleep(time.Millisecond) {
	}
}

// faultyOperations are the system calls by which forms change files.
var faultyOperations = []string{"/^rename", "mkdirat", "pwrite64", "/^write$", "fdatasync", "/^fsync$", "syncfs", "/^unlink", "openat", "/^linkat", "move_mount"}

// TestKillAndFaultAtOperations kills a process at the nth operation of a kind, or
// lets that fail. The next process finds true forms only, and nothing is left over.
func TestKillAndFaultAtOperations(t *testing.T) {
	if testing.Short() {
		t.Skip("some hundred processes")
	}
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatalf("strace is needed to make file operations fail: %v", err)
	}
	for i, operation := range faultyOperations {
		t.Run(strings.Trim(operation, "/^$"), func(t *testing.T) {
			for n, step := 1, i; ; n, step = next(n), step+1 {
				kinds := []string{KindDirectory, KindEROFS}
				met := faultAt(t, kinds[step%2], operation, fmt.Sprintf("signal=KILL:when=%d", n))
				// The runtime wakes itself with write, and ends when it cannot.
				for j, errno := range []string{"EIO", "ENOSPC"} {
					if os.Getenv(longTests) == "" && j != step%2 {
						continue
					}
					if operation != "/^write$" {
						met = faultAt(t, kinds[(step+1)%2], operation, fmt.Sprintf("error=%s:when=%d", errno, n)) || met
					}
				}
				if !met || t.Failed() {
					return
				}
			}
		})
	}
}

// next makes the steps larger, but in the long test.
func next(n int) int {
	if os.Getenv(longTests) != "" {
		return n + 1
	}
	return n*3 + 1
}

// faultAt runs a child with a fault, and looks at what it leaves. It reports
// whether the fault was met.
func faultAt(t *testing.T, kind, operation, fault string) bool {
	t.Helper()
	root, trace := newRoot(t), filepath.Join(t.TempDir(), "trace")
	run := exec.Command("strace", "-f", "--seccomp-bpf", "-qq", "-o", trace, "-e", "trace="+operation, "-e", "inject="+operation+":"+fault, os.Args[0])
	run.Env = append(os.Environ(), childRoot+"="+root, childKind+"="+kind, childBoot+"=one")
	out, err := run.CombinedOutput()
	calls, readErr := os.ReadFile(trace)
	must(t, readErr)
	// 127: the fault met the loading of the program.
	if code := run.ProcessState.ExitCode(); err != nil && code != 127 && !strings.HasPrefix(fault, "signal") {
		t.Errorf("%s, %s at %s: %v\n%s\n%s", kind, operation, fault, err, out, calls)
	}
	met := bytes.Contains(calls, []byte("INJECTED")) || bytes.Contains(calls, []byte("SIGKILL"))
	if met {
		wantTrueForms(t, root, fmt.Sprintf("%s, %s at %s", kind, operation, fault))
	}
	return met
}

// wantTrueForms opens what a process left behind: in the same boot, and in another.
func wantTrueForms(t *testing.T, root, what string) {
	t.Helper()
	layers := childLayers(t)
	images, files, contents := childImages(layers)
	for _, boot := range []string{"one", "two"} {
		f := openForms(t, Options{Root: root, BootID: boot, Kind: KindDirectory}, layers...)
		f.Rehold(nil)
		for i, image := range images {
			form := get(t, f, image, "test")
			path, err := f.Lower(t.Context(), form.ID)
			must(t, err)
			got, err := os.ReadFile(filepath.Join(path, files[i]))
			if err != nil || string(got) != contents[i] {
				t.Errorf("%s: layer %d has %d bytes, %v", what, i, len(got), err)
			}
		}
		wantTidy(t, f)
		wantForms(t, f, len(images))
		f.Release("test")
		must(t, f.Close())
	}
}

func blobsOf(layers ...Layer) (digests []digest.Digest) {
	for _, l := range layers {
		digests = append(digests, l.Blob.Digest)
	}
	return digests
}

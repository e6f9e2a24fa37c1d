package layertree_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/mount/layertree"
)

// TestDeepTreesNeedFewDescriptors makes a tree far deeper than there are
// descriptors. It does not run beside others: the limit is the process's.
func TestDeepTreesNeedFewDescriptors(t *testing.T) {
	needRoot(t)
	layer := pack(t, file(strings.Repeat("d/", 1500)+"f", "deep"), folder(strings.Repeat("d/", 700)+"e"), file("z", "x"))
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	dir := mkdir(t, filepath.Join(t.TempDir(), "l"))
	few := unix.Rlimit{Cur: uint64(openFiles(t) + 16), Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	_, err := byUs(dir, layer, nil)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestModesDoNotDependOnTheUmask runs alone too.
func TestModesDoNotDependOnTheUmask(t *testing.T) {
	before := unix.Umask(0o077)
	defer unix.Umask(before)
	dir := mustUnpack(t, pack(t, folder("d", mode(0o777)), file("d/f", "x", mode(0o666)), newEntry('6', "p", 0o666, nil), empty("e", mode(0o4777))))
	for name, want := range map[string]uint32{"d": 0o777, "d/f": 0o666, "p": 0o666, "e": 0o4777, ".": 0o755} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
			t.Fatal(err)
		}
		if st.Mode&0o7777 != want {
			t.Errorf("%s has %o, not %o", name, st.Mode&0o7777, want)
		}
	}
}

func TestDirectoryLeavesOnlyTheFolder(t *testing.T) {
	root := filepath.Dir(mustUnpack(t, pack(t, file("f", "1"), file("f", "2"), hardlink("l", "f"), symlink("s", "x"), hardlink("t", "s"))))
	all, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 || all[0].Name() != "fs" {
		t.Errorf("%v is left", all)
	}
}

func TestContextEndsFinish(t *testing.T) {
	needRoot(t)
	d, err := layertree.NewDirectory(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	tree, err := readAlone(bytes.NewReader(pack(t, file("f", "x"))), layertree.Limits{}, d)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Finish(ctx, tree); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestDirectoryRefusesWhatIsThere: another's link or file is never followed or
// written over.
func TestDirectoryRefusesWhatIsThere(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	if _, err := layertree.NewDirectory(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "staging")); err != nil {
		t.Fatal(err)
	}
	if _, err := layertree.NewDirectory(dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a link in place of staging: %v", err)
	}
	if err := os.Rename(filepath.Join(dir, "staging"), filepath.Join(dir, "fs")); err != nil {
		t.Fatal(err)
	}
	d, err := layertree.NewDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	tree, err := readAlone(bytes.NewReader(pack(t, file("f", "x"))), layertree.Limits{}, d)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Finish(t.Context(), tree); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a link in place of fs: %v", err)
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("%v was written outside: %v", left, err)
	}
}

package layertree_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/mount/layertree"
)

// TestMain keeps containerd from telling of each attribute that it leaves out.
func TestMain(m *testing.M) {
	if err := log.SetLevel("error"); err != nil {
		panic(err)
	}
	m.Run()
}

// needOverlay skips, aloud, where overlays cannot be mounted.
func needOverlay(t testing.TB) {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"a", "b", "m"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	target := filepath.Join(dir, "m")
	if err := overlay([]string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}).Mount(target); err != nil {
		t.Skipf("SKIPPED, NOTHING WAS COMPARED WITH CONTAINERD: this needs root and overlay mounts: %v", err)
	}
	if err := mount.UnmountAll(target, 0); err != nil {
		t.Fatal(err)
	}
}

func overlay(lowers []string) *mount.Mount {
	return &mount.Mount{Type: "overlay", Source: "overlay", Options: []string{"ro", "lowerdir=" + strings.Join(lowers, ":")}}
}

// byContainerd unpacks one layer as containerd does on its overlayfs
// snapshotter: core/diff/apply/apply_linux.go.
func byContainerd(dir string, layer []byte, lowers []string) (string, error) {
	root := filepath.Join(dir, "fs")
	if err := os.Mkdir(root, 0o755); err != nil {
		return "", err
	}
	options := []archive.ApplyOpt{archive.WithConvertWhiteout(archive.OverlayConvertWhiteout)}
	if len(lowers) > 0 {
		options = append(options, archive.WithParents(lowers))
	}
	_, err := archive.Apply(context.Background(), root, bytes.NewReader(layer), options...)
	return root, err
}

// byUs unpacks one layer alone if that can be, else on top of its parents.
func byUs(dir string, layer []byte, lowers []string) (string, error) {
	root, err := unpack(filepath.Join(dir, "alone"), layer, nil)
	if needs := new(layertree.NeedsParentError); !errors.As(err, &needs) {
		return root, err
	}
	parents, err := layertree.OpenParents(lowers)
	if err != nil {
		return "", err
	}
	root, err = unpack(filepath.Join(dir, "above"), layer, parents)
	return root, errors.Join(err, parents.Close())
}

func unpack(dir string, layer []byte, parents *layertree.Parents) (string, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	d, err := layertree.NewDirectory(dir)
	if err != nil {
		return "", err
	}
	defer d.Close()
	tree, err := layertree.Read(context.Background(), bytes.NewReader(layer), layertree.Options{}, parents, d)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "fs"), d.Finish(context.Background(), tree)
}

type unpacker func(dir string, layer []byte, lowers []string) (string, error)

// unpackAll unpacks a chain and gives its folders, the topmost first. An error
// comes with the number of the layer that has it.
func unpackAll(dir string, layers [][]byte, by unpacker) (lowers []string, err error) {
	for i, layer := range layers {
		// Short names: a mount's options have 4 KiB.
		own := filepath.Join(dir, fmt.Sprint(i))
		if err := os.MkdirAll(own, 0o755); err != nil {
			return nil, err
		}
		root, err := by(own, layer, lowers)
		if err != nil {
			return lowers, fmt.Errorf("layer %d: %w", i, err)
		}
		lowers = slices.Insert(lowers, 0, root)
	}
	return lowers, nil
}

// looks is all that is compared of a file.
type looks struct {
	Mode     uint32
	UID, GID uint32
	Rdev     uint64
	Size     int64
	Content  string
	Target   string
	Xattrs   string
	Names    string // of the same inode
	ModTime  time.Time
}

// lookAt collects the looks of all files below root, and of root itself.
func lookAt(root string) (map[string]looks, error) {
	all := make(map[string]looks)
	names := make(map[uint64][]string)
	inodes := make(map[string]uint64)
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		var st unix.Stat_t
		err = unix.Lstat(path, &st)
		if errors.Is(err, unix.ENOENT) {
			// Overlay lists a whiteout that has nothing to hide.
			all[name] = looks{Target: "listed, and not there"}
			return nil
		}
		if err != nil {
			return err
		}
		names[st.Ino] = append(names[st.Ino], name)
		inodes[name] = st.Ino
		all[name], err = looksOf(path, &st)
		return err
	})
	for name, l := range all {
		same := names[inodes[name]]
		slices.Sort(same)
		l.Names = fmt.Sprintf("%q", same)
		all[name] = l
	}
	return all, err
}

func looksOf(path string, st *unix.Stat_t) (looks, error) {
	l := looks{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Rdev: st.Rdev, ModTime: time.Unix(st.Mtim.Unix())}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		var data []byte
		data, err = os.ReadFile(path)
		l.Content, l.Size = string(data), st.Size
	case unix.S_IFLNK:
		l.Target, err = os.Readlink(path)
	}
	if err != nil {
		return l, err
	}
	l.Xattrs, err = xattrsOf(path)
	return l, err
}

func xattrsOf(path string) (string, error) {
	buffer := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buffer)
	if err != nil {
		return "", fmt.Errorf("listxattr %s: %w", path, err)
	}
	all := []string{}
	for name := range strings.SplitSeq(strings.Trim(string(buffer[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return "", fmt.Errorf("getxattr %s %s: %w", path, name, err)
		}
		all = append(all, fmt.Sprintf("%s=%q", name, value[:n]))
	}
	slices.Sort(all)
	return strings.Join(all, " "), nil
}

// differences compares two folders. A time of containerd's that is after begin
// is the time of unpacking: there the layer tells none.
func differences(containerd, ours string, begin time.Time) ([]string, error) {
	want, err := lookAt(containerd)
	if err != nil {
		return nil, err
	}
	got, err := lookAt(ours)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		w := want[name]
		g, is := got[name]
		delete(got, name)
		if !is {
			all = append(all, fmt.Sprintf("%q is missing; containerd has %+v", name, w))
			continue
		}
		if !w.ModTime.Before(begin) {
			w.ModTime, g.ModTime = time.Time{}, time.Time{}
		}
		if !w.ModTime.Equal(g.ModTime) || w.without() != g.without() {
			all = append(all, fmt.Sprintf("%q is\n  %.600s\ncontainerd has\n  %.600s", name, fmt.Sprintf("%+v", g), fmt.Sprintf("%+v", w)))
		}
	}
	for name, g := range got {
		all = append(all, fmt.Sprintf("%q is too much: %+v", name, g))
	}
	return all, nil
}

func (l looks) without() looks {
	l.ModTime = time.Time{}
	return l
}

// mounted compares two chains as overlays.
func mounted(dir string, containerd, ours []string, begin time.Time) (all []string, err error) {
	if len(ours) == 1 {
		return nil, nil // not mounted as an overlay, but bound as it is
	}
	targets := []string{filepath.Join(dir, "c"), filepath.Join(dir, "o")}
	for i, lowers := range [][]string{containerd, ours} {
		if err := os.MkdirAll(targets[i], 0o755); err != nil {
			return nil, err
		}
		if err := overlay(lowers).Mount(targets[i]); err != nil {
			return nil, fmt.Errorf("mount %d layers: %w", len(lowers), err)
		}
		defer func() { err = errors.Join(err, mount.UnmountAll(targets[i], 0)) }()
	}
	return differences(targets[0], targets[1], begin)
}

// compareChains unpacks a chain in both ways and compares each layer, and the
// mounted whole.
func compareChains(dir string, layers [][]byte) (problems []string, containerdError, ourError error) {
	begin := time.Now().Add(-time.Minute)
	want, containerdError := unpackAll(filepath.Join(dir, "C"), layers, byContainerd)
	got, ourError := unpackAll(filepath.Join(dir, "O"), layers, byUs)
	both := min(len(want), len(got)) // the topmost are first: count from the end
	want, got = want[len(want)-both:], got[len(got)-both:]
	for i := range want {
		found, err := differences(want[i], got[i], begin)
		if err != nil {
			return nil, containerdError, err
		}
		for _, p := range found {
			problems = append(problems, fmt.Sprintf("layer %d: %s", both-1-i, p))
		}
	}
	if containerdError != nil || ourError != nil {
		return problems, containerdError, ourError
	}
	found, err := mounted(dir, want, got, begin)
	for _, p := range found {
		problems = append(problems, "mounted: "+p)
	}
	return problems, nil, err
}

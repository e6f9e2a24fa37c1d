package erofs_test

import (
	"bytes"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/mount/erofs"
	"github.com/imagecache/imagecache/mount/layertree"
)

// testing.T and rapid.T, as far as we need them.
type tester interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
	Errorf(string, ...any)
	Logf(string, ...any)
}

// image is a layer on its way into a file.
type image struct {
	t    tester
	file string
	w    *erofs.Writer
	root *layertree.Node
	data map[int64]string // by Node.Content
}

func newImage(t tester, file string) *image {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	return &image{t: t, file: file, w: erofs.NewWriter(f), root: folder(nil), data: map[int64]string{}}
}

var then = time.Date(2024, 2, 29, 12, 34, 56, 123456789, time.UTC)

func node(mode uint32) *layertree.Node { return &layertree.Node{Mode: mode, ModTime: then, Links: 1} }

func folder(children map[string]*layertree.Node) *layertree.Node {
	n := node(unix.S_IFDIR | 0o755)
	n.Children = map[string]*layertree.Node{}
	maps.Copy(n.Children, children)
	return n
}

func link(target string) *layertree.Node {
	n := node(unix.S_IFLNK | 0o777)
	n.Target = target
	return n
}

func device(mode uint32, major, minor uint32) *layertree.Node {
	n := node(mode)
	n.Rdev = unix.Mkdev(major, minor)
	return n
}

func with(n *layertree.Node, xattrs ...string) *layertree.Node {
	for i := 0; i < len(xattrs); i += 2 {
		n.Xattrs = append(n.Xattrs, layertree.Xattr{Name: xattrs[i], Value: xattrs[i+1]})
	}
	slices.SortFunc(n.Xattrs, func(a, b layertree.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return n
}

// regular is a file with these bytes, which are written at once.
func (im *image) regular(data string) *layertree.Node {
	im.t.Helper()
	n := node(unix.S_IFREG | 0o644)
	if data == "" {
		return n
	}
	return im.stream(strings.NewReader(data), int64(len(data)), func(c int64) { im.data[c] = data })
}

func (im *image) stream(r io.Reader, size int64, written func(content int64)) *layertree.Node {
	im.t.Helper()
	content, err := im.w.File(r, size)
	if err != nil {
		im.t.Fatal(err)
	}
	written(content)
	n := node(unix.S_IFREG | 0o644)
	n.Size, n.Content = size, content
	return n
}

func (im *image) add(name string, n *layertree.Node) *layertree.Node {
	im.root.Children[name] = n
	return n
}

// finish writes the tree, and has fsck.erofs look at it.
func (im *image) finish() int64 {
	im.t.Helper()
	size, err := im.w.Finish(&layertree.Tree{Root: im.root})
	if err != nil {
		im.t.Fatal(err)
	}
	if info, err := os.Stat(im.file); err != nil || info.Size() != size {
		im.t.Fatal(size, info, err)
	}
	fsck(im.t, im.file)
	return size
}

// fsck runs erofs-utils' own check, where it is installed.
func fsck(t tester, file string) {
	t.Helper()
	program, err := exec.LookPath("fsck.erofs")
	if err != nil {
		t.Logf("NOT CHECKED by fsck.erofs, which is not installed (Debian: erofs-utils)")
		return
	}
	if out, err := exec.Command(program, file).CombinedOutput(); err != nil || bytes.Contains(out, []byte("<E>")) {
		t.Fatalf("fsck.erofs: %v\n%s", err, out)
	}
}

// needMounts skips where nothing can be mounted.
func needMounts(t testing.TB) erofs.Support {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: mounting EROFS files takes root")
	}
	s := erofs.Probe(filepath.Join(t.TempDir(), "probe"))
	if s.Way == erofs.None {
		t.Skip("NOT RUN: " + s.String())
	}
	return s
}

// mounted mounts the file, and calls look with the folder.
func mounted(t tester, s erofs.Support, file string, look func(dir string)) {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(file), "mount-")
	if err != nil {
		t.Fatal(err)
	}
	if err := erofs.Mount(file, dir, s); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := erofs.Unmount(dir); err != nil {
			t.Fatal(err)
		}
	}()
	look(dir)
}

// check mounts what was written and compares all of it with the tree.
func (im *image) check(s erofs.Support) {
	im.t.Helper()
	mounted(im.t, s, im.file, func(dir string) { im.compare(dir, "", im.root, map[*layertree.Node]uint64{}) })
}

// compare compares what is at path with a node, and all below it. inodes are the
// numbers of those seen, so that hard links are known.
func (im *image) compare(dir, path string, n *layertree.Node, inodes map[*layertree.Node]uint64) {
	im.t.Helper()
	name := filepath.Join(dir, path)
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		im.t.Fatal(path, err)
	}
	if before, seen := inodes[n]; seen && before != st.Ino || st.Ino == 0 {
		im.t.Errorf("%q: inode %d, its other name has %d", path, st.Ino, before)
	}
	inodes[n] = st.Ino
	im.compareInode(path, n, st)
	im.compareXattrs(path, name, n)
	switch n.Type() {
	case unix.S_IFREG:
		im.compareData(path, name, n)
	case unix.S_IFLNK:
		if target, err := os.Readlink(name); err != nil || target != n.Target {
			im.t.Errorf("%q: links to %.80q, want %.80q (%v)", path, target, n.Target, err)
		}
	case unix.S_IFDIR:
		im.compareNames(path, name, n)
		for child, c := range n.Children {
			im.compare(dir, filepath.Join(path, child), c, inodes)
		}
	}
}

func (im *image) compareInode(path string, n *layertree.Node, st unix.Stat_t) {
	im.t.Helper()
	links := uint64(n.Links)
	if n.Type() == unix.S_IFDIR {
		links = 2
		for _, c := range n.Children {
			if c.Mode&unix.S_IFMT == unix.S_IFDIR {
				links++
			}
		}
	}
	type stat struct {
		mode, uid, gid uint32
		rdev, links    uint64
		mtime          int64
	}
	got := stat{st.Mode, st.Uid, st.Gid, uint64(st.Rdev), uint64(st.Nlink), time.Unix(st.Mtim.Unix()).UnixNano()}
	want := stat{n.Mode, n.UID, n.GID, n.Rdev, links, n.ModTime.UnixNano()}
	if got != want {
		im.t.Errorf("%q is %+v, want %+v", path, got, want)
	}
	if n.Type() == unix.S_IFREG && st.Size != n.Size {
		im.t.Errorf("%q has %d bytes, want %d", path, st.Size, n.Size)
	}
}

func (im *image) compareXattrs(path, name string, n *layertree.Node) {
	im.t.Helper()
	list := make([]byte, 128<<10)
	size, err := unix.Llistxattr(name, list)
	if err != nil {
		im.t.Fatal(path, err)
	}
	var got []layertree.Xattr
	for _, attribute := range strings.FieldsFunc(string(list[:size]), func(r rune) bool { return r == 0 }) {
		value := make([]byte, 64<<10)
		size, err := unix.Lgetxattr(name, attribute, value)
		if err != nil {
			im.t.Fatal(path, attribute, err)
		}
		got = append(got, layertree.Xattr{Name: attribute, Value: string(value[:size])})
	}
	slices.SortFunc(got, func(a, b layertree.Xattr) int { return strings.Compare(a.Name, b.Name) })
	if !slices.Equal(got, n.Xattrs) {
		im.t.Errorf("%q has the attributes %.200q, want %.200q", path, got, n.Xattrs)
	}
}

func (im *image) compareData(path, name string, n *layertree.Node) {
	im.t.Helper()
	want, known := im.data[n.Content]
	if !known && n.Size > 0 {
		return // too large for this: its own test looks at it
	}
	got, err := os.ReadFile(name)
	if err != nil || string(got) != want {
		im.t.Errorf("%q: read %d bytes, and they are not the %d that were written (%v)", path, len(got), len(want), err)
	}
}

func (im *image) compareNames(path, name string, n *layertree.Node) {
	im.t.Helper()
	entries, err := os.ReadDir(name)
	if err != nil {
		im.t.Fatal(path, err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
		if c := n.Children[e.Name()]; c != nil && e.Type() != os.FileMode(0).Type()|typeOf(c.Mode) {
			im.t.Errorf("%q in %q is listed as %v", e.Name(), path, e.Type())
		}
	}
	if want := slices.Sorted(maps.Keys(n.Children)); !slices.Equal(got, want) {
		im.t.Errorf("%q holds %.200q, want %.200q", path, got, want)
	}
}

func typeOf(mode uint32) os.FileMode {
	return map[uint32]os.FileMode{
		unix.S_IFDIR: os.ModeDir, unix.S_IFLNK: os.ModeSymlink, unix.S_IFIFO: os.ModeNamedPipe,
		unix.S_IFSOCK: os.ModeSocket, unix.S_IFBLK: os.ModeDevice, unix.S_IFCHR: os.ModeDevice | os.ModeCharDevice,
	}[mode&unix.S_IFMT]
}

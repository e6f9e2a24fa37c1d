package erofs_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/mount/erofs"
	"github.com/imagecache/imagecache/mount/layertree"
)

// text is size bytes of which no block is like another.
func text(size int) string {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(size), byte(size >> 8)}).Read(b)
	return string(b)
}

func TestATreeIsMountedAsItWas(t *testing.T) {
	support := needMounts(t)
	im := newImage(t, filepath.Join(t.TempDir(), "layer.erofs"))
	twice := im.regular("with two names")
	twice.Links = 2
	im.add("b", twice)
	im.add("folder", folder(map[string]*layertree.Node{"a": twice, "empty": folder(nil), "-": im.regular(""), "...": im.regular(".")}))
	im.add("link", link("../somewhere"))
	im.add("long link", link(strings.Repeat("/target", 585)))
	im.add("longest link", link(strings.Repeat("x", 4095)))
	im.add("block link", link(strings.Repeat("x", 2048)))
	im.add("whiteout", device(unix.S_IFCHR, 0, 0))
	im.add("char", device(unix.S_IFCHR|0o620, 4095, 1<<20-1))
	im.add("block", device(unix.S_IFBLK|0o660, 259, 300))
	im.add("fifo", node(unix.S_IFIFO|0o600))
	im.add("socket", node(unix.S_IFSOCK|0o600))
	im.add("new\nline", im.regular("x")).Mode = unix.S_IFREG | 0o7777
	im.add("\xff\xfe", im.regular("not UTF-8"))
	im.add("old", im.regular("")).ModTime = time.Date(1931, 1, 1, 0, 0, 0, 1, time.UTC)
	im.add("future", im.regular("")).ModTime = time.Date(2525, 1, 1, 0, 0, 0, 999999999, time.UTC)
	owned := im.add("owned", im.regular("x"))
	owned.UID, owned.GID = 3_000_000, 1<<32-2
	im.add("opaque", with(folder(nil), "trusted.overlay.opaque", "y"))
	im.add("able", with(im.regular("x"), "security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"user.empty", "", "user.name", "value", "trusted."+strings.Repeat("n", 247), "long name"))
	im.finish()
	im.check(support)
}

func TestSizesAroundTheBordersOfBlocks(t *testing.T) {
	support := needMounts(t)
	im := newImage(t, filepath.Join(t.TempDir(), "layer.erofs"))
	for _, border := range []int{0, 2048, 4032, 4096, 2 * 4096, 64 << 10, 128 << 10, 256 << 10, 300 << 10} {
		for _, more := range []int{-1, 0, 1, 33, 2047, 2048, 2049} {
			if size := border + more; size >= 0 {
				im.add(fmt.Sprint(size), im.regular(text(size)))
				im.add(fmt.Sprint(size, " with attributes"), with(im.regular(text(size)), "user.a", strings.Repeat("a", (size*7)%3000)))
			}
		}
	}
	im.finish()
	im.check(support)
}

func TestAttributesLongerThanBlocks(t *testing.T) {
	support := needMounts(t)
	im := newImage(t, filepath.Join(t.TempDir(), "layer.erofs"))
	im.add("60 KiB", with(im.regular("tail"), "user.a", strings.Repeat("a", 60<<10)))
	im.add("most", with(link("target"), "trusted.a", text(65535), "trusted.b", text(65535), "security.c", text(65535), "trusted.d", text(65000)))
	im.add("folder", with(folder(map[string]*layertree.Node{"x": im.regular("x")}), "user.a", text(10_001), "trusted.b", text(4095)))
	im.add("sparse", with(im.regular(strings.Repeat("\x00", 70_000)+"end"), "user.a", text(5001)))
	im.finish()
	im.check(support)
}

func TestFoldersOfManyAndOfLongNames(t *testing.T) {
	support := needMounts(t)
	im := newImage(t, filepath.Join(t.TempDir(), "layer.erofs"))
	many, long := folder(nil), folder(nil)
	for i := range 10_000 {
		many.Children[fmt.Sprintf("name %d", i)] = node(unix.S_IFREG)
	}
	for i := range 100 {
		long.Children[fmt.Sprintf("%0255d", i)] = link("x")
	}
	im.add("many", many)
	im.add("long", long)
	// One of these ends its only block with no byte to spare, others around it.
	for last := range 40 {
		full := folder(nil)
		for i := range 15 {
			full.Children[fmt.Sprintf("%0230d", i)] = node(unix.S_IFREG)
		}
		full.Children[strings.Repeat("z", 200+last)] = node(unix.S_IFREG)
		im.add(fmt.Sprint("full ", last), full)
	}
	im.finish()
	im.check(support)
}

// A root whose number has to be small comes first, whatever is in the layer.
func TestManyInodesOfAllSizes(t *testing.T) {
	support := needMounts(t)
	im := newImage(t, filepath.Join(t.TempDir(), "layer.erofs"))
	deep := im.root
	for i := range 300 {
		next := folder(map[string]*layertree.Node{"file": im.regular(text(i * 13))})
		next.ModTime = then.Add(time.Duration(i%3) * time.Second)
		deep.Children[fmt.Sprint("d", i)] = next
		if i%3 == 0 {
			deep = next
		}
	}
	im.finish()
	im.check(support)
}

func TestLinkCountsBeyondACompactInode(t *testing.T) {
	support := needMounts(t)
	im := newImage(t, filepath.Join(t.TempDir(), "layer.erofs"))
	popular := im.regular("x")
	for i := range 65_600 {
		im.root.Children[fmt.Sprint(i)] = popular
	}
	popular.Links = 65_600
	im.finish()
	mounted(t, support, im.file, func(dir string) {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, "77"), &st); err != nil || st.Nlink != 65_600 {
			t.Fatal(st.Nlink, err)
		}
	})
}

// patches is a file of zeros with something here and there.
type patches struct {
	size, at int64
	data     map[int64]string
}

func (p *patches) Read(b []byte) (int, error) {
	n := int(min(int64(len(b)), p.size-p.at))
	if n == 0 {
		return 0, io.EOF
	}
	clear(b[:n])
	for offset, data := range p.data {
		for i := range len(data) {
			if at := offset + int64(i) - p.at; at >= 0 && at < int64(n) {
				b[at] = data[i]
			}
		}
	}
	p.at += int64(n)
	return n, nil
}

func TestZerosTakeNoSpace(t *testing.T) {
	support := needMounts(t)
	im := newImage(t, filepath.Join(t.TempDir(), "layer.erofs"))
	for name, data := range map[string]string{
		"all":       strings.Repeat("\x00", 1<<20),
		"start":     strings.Repeat("\x00", 1<<20) + "x",
		"end":       "x" + strings.Repeat("\x00", 1<<20),
		"unaligned": text(100) + strings.Repeat("\x00", 200_000) + text(100_000) + strings.Repeat("\x00", 70_000) + "end",
		"short":     text(100) + strings.Repeat("\x00", 60_000) + "end",
		"one chunk": strings.Repeat("\x00", 64<<10),
		"last":      text(64<<10) + strings.Repeat("\x00", 10),
	} {
		im.add(name, im.regular(data))
	}
	size := im.finish()
	if size > 800_000 {
		t.Errorf("the file has %d bytes", size)
	}
	im.check(support)
	mounted(t, support, im.file, func(dir string) { checkHole(t, filepath.Join(dir, "start"), 0, 1<<20) })
}

// checkHole looks whether the kernel reports [from, to) as a hole, where it
// reports holes at all.
func checkHole(t *testing.T, name string, from, to int64) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	hole, errA := f.Seek(from, unix.SEEK_HOLE)
	data, errB := f.Seek(from, unix.SEEK_DATA)
	if hole > from {
		t.Logf("NOT CHECKED: this kernel tells of no holes in EROFS")
	} else if hole != from || data != to || errors.Join(errA, errB) != nil {
		t.Errorf("%s: hole at %d, data at %d, want %d and %d (%v, %v)", name, hole, data, from, to, errA, errB)
	}
}

func TestOffsetsBeyond4GiB(t *testing.T) {
	support := needMounts(t)
	im := newImage(t, filepath.Join(t.TempDir(), "layer.erofs"))
	const size = 5<<30 + 12_345
	data := map[int64]string{0: "start", 1<<32 - 3: "across", 1<<32 + 500_000: text(5000), size - 7: "the end"}
	im.add("sparse", im.stream(&patches{size: size, data: data}, size, func(int64) {}))
	if size := im.finish(); size > 4<<20 {
		t.Errorf("the file has %d bytes", size)
	}
	im.check(support)
	mounted(t, support, im.file, func(dir string) {
		f, err := os.Open(filepath.Join(dir, "sparse"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for at, want := range data {
			got := make([]byte, len(want)+100)
			n, _ := f.ReadAt(got, at)
			if n < len(want) || string(got[:len(want)]) != want || len(bytes.Trim(got[len(want):n], "\x00")) > 0 {
				t.Errorf("at %d: %q", at, got[:min(n, 50)])
			}
		}
	})
}

func TestTheSameTreeGivesTheSameBytes(t *testing.T) {
	write := func(name, data string) [32]byte {
		im := newImage(t, filepath.Join(t.TempDir(), name))
		for i := range 100 {
			im.add(fmt.Sprint(i), with(im.regular(data+text(i*100)), "user.a", "1", "user.b", "2"))
		}
		im.add("folder", folder(map[string]*layertree.Node{"a": link("x"), "b": link("y"), "c": folder(nil)}))
		im.finish()
		b, err := os.ReadFile(im.file)
		if err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(b)
	}
	first := write("a", "x")
	if second := write("b", "x"); second != first {
		t.Error("two files of one tree differ")
	}
	if third := write("c", "y"); third == first {
		t.Error("the data changed, and the file did not")
	}
}

// volume is the UUID in the superblock.
func volume(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", b[1024+48:1024+64])
}

func TestLayersThatDifferHaveDifferentVolumes(t *testing.T) {
	seen := map[string]string{}
	for name, change := range map[string]func(im *image){
		"empty": func(*image) {},
		"data":  func(im *image) { im.add("f", im.regular("a"+text(4096))) },
		"other": func(im *image) { im.add("f", im.regular("b"+text(4096))) },
		"tail":  func(im *image) { im.add("f", im.regular("tail")) },
		"mode":  func(im *image) { im.root.Mode |= unix.S_ISVTX },
	} {
		im := newImage(t, filepath.Join(t.TempDir(), "layer.erofs"))
		change(im)
		im.finish()
		id := volume(t, im.file)
		if other, taken := seen[id]; taken {
			t.Errorf("%s and %s are both %s", name, other, id)
		}
		seen[id] = name
	}
}

func TestAFileThatIsNotFinishedIsNoEROFS(t *testing.T) {
	im := newImage(t, filepath.Join(t.TempDir(), "layer.erofs"))
	im.regular(text(1 << 20))
	im.w.Close()
	b, err := os.ReadFile(im.file)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 1024 && len(bytes.Trim(b[1024:4096], "\x00")) > 0 {
		t.Error("there is a superblock")
	}
	if _, err := im.w.Finish(&layertree.Tree{Root: im.root}); err == nil {
		t.Error("it can be finished after Close")
	}
}

func TestAFileThatEndsEarlyIsAnError(t *testing.T) {
	im := newImage(t, filepath.Join(t.TempDir(), "layer.erofs"))
	_, err := im.w.File(strings.NewReader("short"), 10)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	if _, err := im.w.Finish(&layertree.Tree{Root: im.root}); err == nil {
		t.Fatal("and what was written is finished all the same")
	}
}

func TestWhatEROFSCannotHoldIsRefused(t *testing.T) {
	double := folder(nil)
	never := node(unix.S_IFREG)
	never.Size, never.Content = 5, 77
	for why, n := range map[string]*layertree.Node{
		"name":        folder(map[string]*layertree.Node{strings.Repeat("n", 256): node(unix.S_IFREG)}),
		"slash":       folder(map[string]*layertree.Node{"a/b": node(unix.S_IFREG)}),
		"dots":        folder(map[string]*layertree.Node{"..": node(unix.S_IFREG)}),
		"mode":        node(0o644),
		"large mode":  node(unix.S_IFREG | 1<<17),
		"link":        link(strings.Repeat("x", 4096)),
		"no target":   link(""),
		"value":       with(node(unix.S_IFREG), "user.a", strings.Repeat("v", 65536)),
		"attribute":   with(node(unix.S_IFREG), "user."+strings.Repeat("n", 256), ""),
		"attributes":  with(node(unix.S_IFREG), "user.a", text(65535), "user.b", text(65535), "user.c", text(65535), "user.d", text(65535)),
		"two folders": folder(map[string]*layertree.Node{"a": double, "b": double}),
		"content":     never,
	} {
		im := newImage(t, filepath.Join(t.TempDir(), "layer.erofs"))
		im.add("in", folder(map[string]*layertree.Node{why: n}))
		_, err := im.w.Finish(&layertree.Tree{Root: im.root})
		var unfit *erofs.UnfitError
		if err == nil || !strings.Contains(err.Error(), "/in/"+why) || why != "content" && !errors.As(err, &unfit) {
			t.Errorf("%s: %v", why, err)
		}
	}
}

// No path is put together for a name, and none of the writer's stack is used for
// a folder.
func TestATreeOfAnyDepth(t *testing.T) {
	im := newImage(t, filepath.Join(t.TempDir(), "layer.erofs"))
	deep := im.root
	for range 100_000 {
		next := folder(nil)
		deep.Children["d"] = next
		deep = next
	}
	if _, err := im.w.Finish(&layertree.Tree{Root: im.root, Entries: 100_000}); err != nil {
		t.Fatal(err)
	}
}

// The kernel sets no such attribute on a folder either.
func TestAttributesThatNoKernelKnowsAreLeftOut(t *testing.T) {
	support := needMounts(t)
	im := newImage(t, filepath.Join(t.TempDir(), "layer.erofs"))
	n := im.add("file", with(im.regular("x"), "system.nfs4_acl", "x", "com.apple.quarantine", "x", "user.a", "b", "user.", "x", "nothing", "x"))
	im.finish()
	n.Xattrs = []layertree.Xattr{{Name: "user.a", Value: "b"}}
	im.check(support)
}

// The last inode may end where its block ends.
func TestInodesUpToTheEndOfTheirBlock(t *testing.T) {
	support := needMounts(t)
	for size := 3800; size < 3968; size += 32 {
		im := newImage(t, filepath.Join(t.TempDir(), "layer.erofs"))
		im.add("a", with(link("x"), "trusted.a", strings.Repeat("a", size)))
		im.add("b", node(unix.S_IFIFO))
		im.finish()
		im.check(support)
	}
}

package erofs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/imagecache/imagecache/mount/erofs"
	"github.com/imagecache/imagecache/mount/layertree"
)

func TestRandomTreesAreMountedAsTheyWere(t *testing.T) {
	support := needMounts(t)
	rapid.Check(t, func(t *rapid.T) { randomTree(t, support) })
}

func FuzzTrees(f *testing.F) {
	support := needMounts(f)
	f.Fuzz(rapid.MakeFuzz(func(t *rapid.T) { randomTree(t, support) }))
}

func randomTree(t *rapid.T, support erofs.Support) {
	dir, err := os.MkdirTemp("", "imagecache-erofs-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	g := grower{T: t, image: newImage(t, filepath.Join(dir, "layer.erofs"))}
	defer g.image.w.Close()
	g.grow(g.image.root, 0)
	for _, n := range g.files {
		n.Links = 0
	}
	countNames(g.image.root)
	g.image.finish()
	g.image.check(support)
}

// countNames sets how many names files have: one that was drawn twice in one
// folder lost its first file.
func countNames(in *layertree.Node) {
	for _, n := range in.Children {
		if n.Type() == unix.S_IFREG {
			n.Links++
		}
		countNames(n)
	}
}

// grower makes a tree of what rapid draws.
type grower struct {
	*rapid.T
	image *image
	files []*layertree.Node
}

func (g *grower) grow(in *layertree.Node, depth int) {
	for range rapid.IntRange(0, 6).Draw(g.T, "names") {
		name := rapid.StringOfN(rapid.RuneFrom([]rune("ab.-é\n 世")), 1, 80, 255).Draw(g.T, "name")
		if name == "." || name == ".." {
			continue
		}
		if crowd := rapid.IntRange(0, 40).Draw(g.T, "crowd"); crowd > 37 {
			for i := range crowd * 9 {
				in.Children[fmt.Sprint(name[:min(len(name), 200)], i)] = node(unix.S_IFIFO)
			}
		}
		in.Children[name] = g.node(depth)
	}
}

func (g *grower) node(depth int) *layertree.Node {
	switch rapid.IntRange(0, 9).Draw(g.T, "kind") {
	case 0, 1:
		n := g.leaf(unix.S_IFDIR)
		n.Children = map[string]*layertree.Node{}
		if depth < 6 {
			g.grow(n, depth+1)
		}
		return n
	case 2:
		n := g.leaf(unix.S_IFLNK)
		n.Mode, n.Target = unix.S_IFLNK|0o777, strings.Repeat("t", rapid.IntRange(1, 4095).Draw(g.T, "target"))
		return n
	case 3:
		n := g.leaf(rapid.SampledFrom([]uint32{unix.S_IFCHR, unix.S_IFBLK}).Draw(g.T, "device"))
		n.Rdev = unix.Mkdev(rapid.Uint32Range(0, 4095).Draw(g.T, "major"), rapid.Uint32Range(0, 1<<20-1).Draw(g.T, "minor"))
		return n
	case 4:
		return g.leaf(rapid.SampledFrom([]uint32{unix.S_IFIFO, unix.S_IFSOCK}).Draw(g.T, "special"))
	case 5:
		if len(g.files) > 0 {
			return rapid.SampledFrom(g.files).Draw(g.T, "link to")
		}
	}
	return g.file()
}

// leaf is a node with attributes of all kinds.
func (g *grower) leaf(kind uint32) *layertree.Node {
	n := node(kind | rapid.Uint32Range(0, 0o7777).Draw(g.T, "permissions"))
	ids := rapid.SampledFrom([]uint32{0, 1000, 65535, 65536, 3_000_000})
	n.UID, n.GID = ids.Draw(g.T, "uid"), ids.Draw(g.T, "gid")
	if rapid.Bool().Draw(g.T, "odd time") {
		n.ModTime = time.Unix(rapid.Int64Range(-1<<33, 1<<33).Draw(g.T, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(g.T, "nanoseconds"))
	}
	sizes := rapid.SampledFrom([]int{0, 1, 2, 3, 5, 100, 3000, 4096, 9000})
	for _, name := range []string{"trusted.overlay.opaque", "trusted.x", "security.x"} {
		if rapid.IntRange(0, 3).Draw(g.T, name) == 0 {
			with(n, name, text(sizes.Draw(g.T, "value")))
		}
	}
	return n
}

func (g *grower) file() *layertree.Node {
	var data strings.Builder
	for range rapid.IntRange(0, 3).Draw(g.T, "parts") {
		size := rapid.SampledFrom([]int{1, 31, 2047, 2049, 4095, 4096, 65_536, 70_001}).Draw(g.T, "size")
		if rapid.Bool().Draw(g.T, "zeros") {
			data.WriteString(strings.Repeat("\x00", size))
		} else {
			data.WriteString(text(size))
		}
	}
	n := g.leaf(unix.S_IFREG)
	bytes := g.image.regular(data.String())
	n.Size, n.Content = bytes.Size, bytes.Content
	g.files = append(g.files, n)
	return n
}

package layertree_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/mount/layertree"
)

// FuzzRead takes any bytes for a layer, compressed or not. What is taken must be
// a tree that can be made, and the same with parents known as without, where
// they are not needed.
func FuzzRead(f *testing.F) {
	for _, layers := range differentialCases {
		for _, l := range layers {
			if data, err := tryPack(l); err == nil && len(data) < 64<<10 {
				f.Add(data)
			}
		}
	}
	f.Add(withEnd(sparsePAX("s")))
	f.Add(withEnd(sparsePAX01("s")))
	f.Add(withEnd(sparseGNU("s")))
	f.Add([]byte(gzipped(f, string(withEnd(raw("f", '0', 0))))))
	f.Add([]byte(zstdCompressed(f, string(withEnd(raw("f", '0', 0))))))
	limits := layertree.Limits{Bytes: 4 << 20, Entries: 500, Metadata: 1 << 20}
	f.Fuzz(func(t *testing.T, data []byte) {
		data = bytes.Clone(data)
		mendSums(data)
		tree, sink, err := readCompressed(data, limits, true)
		if err != nil {
			if tree != nil || !isRefused(err) && !isLimit(err) {
				t.Fatalf("%v, %v", tree, err)
			}
			return
		}
		checkTree(t, tree, sink)
		alone, _, err := readCompressed(data, limits, false)
		switch {
		case err != nil && !needsParent(err):
			t.Fatalf("alone: %v", err)
		case err == nil && (alone.Bytes != tree.Bytes || alone.Entries != tree.Entries):
			t.Fatalf("alone it is %+v, else %+v", alone, tree)
		}
	})
}

// mendSums makes the checksums of all headers right: else nothing that is
// changed in one is ever read.
func mendSums(data []byte) {
	for ; len(data) >= 512; data = data[512:] {
		if block := data[:512]; string(block[257:262]) == "ustar" {
			setSum(block)
		}
	}
}

func readCompressed(data []byte, limits layertree.Limits, parentsKnown bool) (*layertree.Tree, *memory, error) {
	r, err := layertree.Decompress(bytes.NewReader(data))
	if err != nil {
		return nil, nil, err
	}
	sink := new(memory)
	var tree *layertree.Tree
	if parentsKnown {
		tree, err = readAlone(r, limits, sink)
	} else {
		tree, err = layertree.Read(context.Background(), r, layertree.Options{Limits: limits}, nil, sink)
	}
	return tree, sink, errors.Join(err, r.Close())
}

// checkTree looks for what no tree may have.
func checkTree(t *testing.T, tree *layertree.Tree, sink *memory) {
	t.Helper()
	c := treeCheck{t: t, sink: sink, links: make(map[*layertree.Node]int)}
	c.node("", tree.Root)
	c.links[tree.Root]++
	bytes := int64(0)
	for n, links := range c.links {
		if n.Links != links {
			t.Errorf("a node has %d names, and says %d", links, n.Links)
		}
		bytes += n.Size
	}
	if c.names != tree.Entries || bytes != tree.Bytes {
		t.Errorf("%d names, %d bytes; the tree says %d, %d", c.names, bytes, tree.Entries, tree.Bytes)
	}
}

type treeCheck struct {
	t     *testing.T
	sink  *memory
	links map[*layertree.Node]int
	names int
}

func (c *treeCheck) node(path string, n *layertree.Node) {
	if n.Type() != unix.S_IFDIR && n.Children != nil {
		c.t.Errorf("%q is no folder, and has names in it", path)
	}
	if n.ModTime.Before(time.Unix(0, 0)) || n.ModTime.UnixNano() < 0 {
		c.t.Errorf("%q is of %v", path, n.ModTime)
	}
	if n.Type() == unix.S_IFREG && int64(len(c.sink.of(n))) != n.Size {
		c.t.Errorf("%q has %d bytes, not %d", path, len(c.sink.of(n)), n.Size)
	}
	if n.Type() == unix.S_IFLNK && (n.Target == "" || strings.ContainsRune(n.Target, 0)) {
		c.t.Errorf("%q is a link to %q", path, n.Target)
	}
	if !slices.IsSortedFunc(n.Xattrs, func(a, b layertree.Xattr) int { return strings.Compare(a.Name, b.Name) }) {
		c.t.Errorf("%q has attributes %v", path, n.Xattrs)
	}
	for name, child := range n.Children {
		if name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\x00") {
			c.t.Errorf("%q has a name %q in it", path, name)
		}
		c.names++
		if c.links[child]++; c.links[child] == 1 {
			c.node(path+"/"+name, child)
		}
	}
}

// FuzzDecompress compares with containerd's.
func FuzzDecompress(f *testing.F) {
	for _, data := range []string{"", "plain", gzipped(f, "x"), gzipped(f, "x") + "y", zstdCompressed(f, "x"), skippable("s") + zstdCompressed(f, "x")} {
		f.Add([]byte(data))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		const most = 8 << 20
		want, containerd := byContainerdDecompressed(io.LimitReader(bytes.NewReader(data), most))
		got, err := decompressed(bytes.NewReader(data))
		if err == nil && (containerd != nil || got != want) {
			t.Errorf("%d bytes; containerd: %d, %v", len(got), len(want), containerd)
		}
		if err != nil && containerd == nil && !strings.Contains(err.Error(), "window") {
			t.Errorf("%v; containerd takes it", err)
		}
	})
}

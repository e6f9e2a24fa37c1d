package layertree_test

import (
	"archive/tar"
	"bytes"
	"context"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/mount/layertree"
)

// TestTreeOfALayer looks at the tree itself: what a folder on disk does not show.
func TestTreeOfALayer(t *testing.T) {
	tree, sink := mustRead(t, pack(t,
		folder("d"), file("d/f", "first"), file("d/f", "content"), hardlink("l", "d/f"), empty("e"), empty(".wh.gone"), empty("d/.wh..wh..opq"),
		newEntry(tar.TypeChar, "dev", 0o600, []change{numbers(4096+1, 1<<20+3)}),
	))
	if tree.Entries != 6 || tree.Bytes != int64(len("content")) {
		t.Errorf("%d entries, %d bytes", tree.Entries, tree.Bytes)
	}
	checkTree(t, tree, sink)
	d, f := tree.Root.Children["d"], tree.Root.Children["l"]
	if d.Children["f"] != f || f.Links != 2 || sink.of(f) != "content" {
		t.Errorf("a hard link is another file: %+v", f)
	}
	if len(d.Xattrs) != 1 || d.Xattrs[0] != (layertree.Xattr{Name: "trusted.overlay.opaque", Value: "y"}) {
		t.Errorf("an opaque folder has %v", d.Xattrs)
	}
	if gone := tree.Root.Children["gone"]; gone.Type() != unix.S_IFCHR || gone.Rdev != 0 || gone.Mode&0o7777 != 0 {
		t.Errorf("a whiteout is %+v", gone)
	}
	if dev := tree.Root.Children["dev"]; dev.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("a device is %x: the kernel has 12 and 20 bits", dev.Rdev)
	}
	if e := tree.Root.Children["e"]; e.Content != 0 || e.Size != 0 {
		t.Errorf("an empty file has content %d", e.Content)
	}
}

// TestReadReadsToTheEnd: else a digest of the stream would be wrong.
func TestReadReadsToTheEnd(t *testing.T) {
	stream := bytes.NewReader(append(pack(t, file("f", "x")), bytes.Repeat([]byte{7}, 100_000)...))
	if _, err := readAlone(stream, layertree.Limits{}, new(count)); err != nil {
		t.Fatal(err)
	}
	if stream.Len() > 0 {
		t.Errorf("%d bytes are left", stream.Len())
	}
}

// TestWhatNeedsParents: all else is unpacked without waiting for them.
func TestWhatNeedsParents(t *testing.T) {
	for name, c := range map[string]struct {
		layer []entry
		needs bool
	}{
		"folders with entries":  {[]entry{folder("a"), folder("a/b"), file("a/b/c", "x"), hardlink("l", "a/b/c"), empty("a/.wh.x")}, false},
		"entries in the root":   {[]entry{file("x", "x"), empty(".wh.y"), empty(".wh..wh..opq")}, false},
		"an implied folder":     {[]entry{file("a/b", "x")}, true},
		"for a whiteout":        {[]entry{empty("a/.wh.b")}, true},
		"its entry comes later": {[]entry{file("a/b", "x"), folder("a")}, true},
		"a link to below":       {[]entry{hardlink("l", "f")}, true},
	} {
		_, err := layertree.Read(context.Background(), bytes.NewReader(pack(t, c.layer...)), layertree.Options{}, nil, new(count))
		if needsParent(err) != c.needs || err != nil && !c.needs {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLimits are those of the package where none are given.
func TestLimits(t *testing.T) {
	for name, c := range map[string]struct {
		limits layertree.Limits
		layer  []entry
		over   bool
	}{
		"bytes, as many":   {layertree.Limits{Bytes: 4}, []entry{file("a", "12"), file("b", "34")}, false},
		"bytes, one more":  {layertree.Limits{Bytes: 3}, []entry{file("a", "12"), file("b", "34")}, true},
		"entries, as many": {layertree.Limits{Entries: 2}, []entry{empty("a"), empty("b")}, false},
		"entries, more":    {layertree.Limits{Entries: 1}, []entry{empty("a"), empty("b")}, true},
		"implied ones too": {layertree.Limits{Entries: 2}, []entry{empty("a/b/c")}, true},
		"metadata":         {layertree.Limits{Metadata: 1000}, []entry{symlink("a", "b"), symlink("c", string(bytes.Repeat([]byte("x"), 1000)))}, true},
		"none":             {layertree.Limits{}, []entry{file("a/b/c", "x")}, false},
	} {
		_, err := readAlone(bytes.NewReader(pack(t, c.layer...)), c.limits, new(count))
		if isLimit(err) != c.over || err != nil && !c.over {
			t.Errorf("%s: %v", name, err)
		}
	}
}

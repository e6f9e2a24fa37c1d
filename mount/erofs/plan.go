package erofs

import (
	"errors"
	"fmt"
	"hash"
	"maps"
	"math"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/mount/layertree"
)

// plan is the metadata of one file: which inodes there are, and where.
type plan struct {
	inodes    []inode // the root first, then the names of one folder after the other
	index     map[*layertree.Node]int
	contents  []content
	time      stamp // of the compact inodes
	metaBlock int64 // where the inodes begin
	dataBlock int64 // where the blocks of folders and long links begin
	sparse    bool  // some file has a chunk map
	hash      hash.Hash
}

// inode is one inode of the plan.
type inode struct {
	node   *layertree.Node
	parent int   // of a folder: its parent's place in inodes
	links  int64 // names that lead here; a folder has "." and its children's ".." too
	at     int64 // offset from the start of the metadata, in bytes
	blocks int64 // of a folder or a long link: its blocks
	block  int64 // the first of these, from the start of all such blocks
	names  []string
	size   int64 // as the inode says it, in bytes
	xattrs int   // bytes of extended attributes
}

// stamp is a time as inodes have it: seconds since 1970, which may be negative.
type stamp struct{ seconds, nanoseconds int64 }

func stampOf(n *layertree.Node) stamp {
	return stamp{n.ModTime.Unix(), int64(n.ModTime.Nanosecond())}
}

// newPlan numbers the inodes, and checks that EROFS can hold them.
func newPlan(t *layertree.Tree, contents []content) (*plan, error) {
	root, names := t.Root, t.Entries+1
	p := &plan{inodes: make([]inode, 0, names), index: make(map[*layertree.Node]int, names), contents: contents}
	if root == nil || root.Type() != unix.S_IFDIR {
		return nil, &UnfitError{Path: "/", Why: "the root is no folder"}
	}
	if _, err := p.add(root, 0); err != nil {
		return nil, p.errorAt(err, 0, "")
	}
	// Depth first, so that what is near in the tree is near on disk. Not by
	// recursion: the depth of a layer is not ours to choose.
	for stack := []int{0}; len(stack) > 0; {
		folder := stack[len(stack)-1]
		below, err := p.addChildren(folder)
		if err != nil {
			return nil, err
		}
		slices.Reverse(below)
		stack = append(stack[:len(stack)-1], below...)
	}
	p.time = p.usualTime()
	return p, nil
}

// addChildren adds the names in one folder, and tells which of them are folders.
func (p *plan) addChildren(folder int) (below []int, err error) {
	children := p.inodes[folder].node.Children
	names := slices.Sorted(maps.Keys(children))
	for _, name := range names {
		err := checkName(name)
		if err != nil {
			return nil, p.errorAt(err, folder, name)
		}
		at, err := p.add(children[name], folder)
		if err != nil {
			return nil, p.errorAt(err, folder, name)
		}
		if children[name].Type() == unix.S_IFDIR {
			p.inodes[folder].links++
			below = append(below, at)
		}
	}
	p.inodes[folder].names = names
	return below, nil
}

// errorAt says of what name an error is.
func (p *plan) errorAt(err error, folder int, name string) error {
	names := []string{name}
	for ; folder != 0; folder = p.inodes[folder].parent {
		names = append(names, p.nameOf(folder))
	}
	slices.Reverse(names)
	path := "/" + strings.Join(names, "/")
	if unfit := new(UnfitError); errors.As(err, &unfit) {
		return &UnfitError{Path: path, Why: unfit.Why}
	}
	return fmt.Errorf("%.500q: %w", path, err)
}

// nameOf is what a folder is called in its parent. It is searched for: paths are
// for errors alone, and a layer may be deep.
func (p *plan) nameOf(folder int) string {
	n := p.inodes[folder]
	for name, child := range p.inodes[n.parent].node.Children {
		if child == n.node {
			return name
		}
	}
	return ""
}

func checkName(name string) error {
	switch {
	case len(name) > maxNameSize:
		return &UnfitError{Why: fmt.Sprintf("its name has more than %d bytes", maxNameSize)}
	case name == "", name == ".", name == "..", strings.ContainsAny(name, "/\x00"):
		return &UnfitError{Why: "that is no name"}
	}
	return nil
}

// add gives a node its place, unless another name of it did so before.
func (p *plan) add(n *layertree.Node, parent int) (int, error) {
	isFolder := n.Type() == unix.S_IFDIR
	if at, known := p.index[n]; known {
		if isFolder {
			return 0, &UnfitError{Why: "a folder with two names"}
		}
		p.inodes[at].links++
		return at, nil
	}
	links := int64(1)
	if isFolder {
		links = 2
	}
	if err := p.check(n); err != nil {
		return 0, err
	}
	at := len(p.inodes)
	p.inodes = append(p.inodes, inode{node: n, parent: parent, links: links})
	p.index[n] = at
	return at, nil
}

// check refuses what an inode cannot say.
func (p *plan) check(n *layertree.Node) error {
	if fileType(n.Mode) == 0 || n.Mode > math.MaxUint16 {
		return &UnfitError{Why: fmt.Sprintf("%o is no mode of a file", n.Mode)}
	}
	if err := checkXattrs(n.Xattrs); err != nil {
		return err
	}
	switch n.Type() {
	case unix.S_IFREG:
		return p.checkContent(n)
	case unix.S_IFLNK:
		if n.Target == "" || len(n.Target) >= unix.PathMax {
			return &UnfitError{Why: fmt.Sprintf("a symbolic link has from 1 to %d bytes, this one has %d", unix.PathMax-1, len(n.Target))}
		}
	}
	return nil
}

func (p *plan) checkContent(n *layertree.Node) error {
	if n.Size == 0 {
		return nil
	}
	if n.Content < 1 || n.Content > int64(len(p.contents)) || p.contents[n.Content-1].size != n.Size {
		return fmt.Errorf("content %d of %d bytes was never written", n.Content, n.Size)
	}
	p.sparse = p.sparse || p.contents[n.Content-1].sparse != nil
	return nil
}

// content is where the bytes of a regular file are.
func (p *plan) content(n *layertree.Node) content {
	if n.Size == 0 {
		return content{tail: -1}
	}
	return p.contents[n.Content-1]
}

// usualTime is the time that more than half of the inodes have, if there is one:
// these can be compact. (Boyer and Moore's vote: one pass, no memory.)
func (p *plan) usualTime() (usual stamp) {
	votes := 0
	for _, i := range p.inodes {
		switch s := stampOf(i.node); {
		case votes == 0:
			usual, votes = s, 1
		case s == usual:
			votes++
		default:
			votes--
		}
	}
	return usual
}

// place gives every inode its offset, and every folder and long link its blocks.
func (p *plan) place(metaBlock int64) {
	p.metaBlock = metaBlock
	at := int64(slotSize) // number 0 is left out: readdir takes it for a name that was removed
	blocks := int64(0)
	for i := range p.inodes {
		n := &p.inodes[i]
		n.size, n.xattrs = n.dataSize(), xattrsSize(n.node.Xattrs)
		n.blocks, n.block = p.ownBlocks(i), blocks
		blocks += n.blocks
		n.at = fit(roundUp(at, slotSize), p.coreSize(i), int64(n.xattrs), p.inlineSize(i))
		at = n.at + p.followSize(i)
	}
	// fsck.erofs reads the header of attributes also where there are none: the last
	// inode must not end with the file.
	p.dataBlock = metaBlock + roundUp(at+xattrHeaderSize, blockSize)>>blockBits
}

// fit is the first place from at on where neither an inode nor what is inline is
// cut by the end of a block. Between the two its attributes may be.
func fit(at, core, xattrs, inline int64) int64 {
	for cut(at, core) || cut(at+core+xattrs, inline) {
		at += slotSize
	}
	return at
}

func cut(at, size int64) bool { return at%blockSize+size > blockSize }

// number is what directory entries call the inode.
func (p *plan) number(i int) int64 { return p.inodes[i].at / slotSize }

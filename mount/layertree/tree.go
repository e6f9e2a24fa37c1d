package layertree

import (
	"cmp"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Tree is what one layer holds, whiteouts included.
type Tree struct {
	Root    *Node // a folder, 0755 and of user 0: an entry for the root itself says nothing
	Entries int   // names below the root; a file with two names counts twice
	Bytes   int64 // sum of the sizes of the regular files; a file with two names counts once
}

// Node is one inode of a Tree. A hard link is a second name of the same Node.
type Node struct {
	Mode     uint32 // type and permissions, as st_mode has them
	UID, GID uint32
	Rdev     uint64 // of a device, as unix.Mkdev makes it
	ModTime  time.Time
	Xattrs   []Xattr // sorted by name, each name once
	Target   string  // of a symbolic link
	Size     int64   // of a regular file, in bytes
	Content  int64   // the number that the Sink gave the bytes of a regular file; 0 where Size is 0
	Links    int     // how many names it has in the tree
	Children map[string]*Node
}

// Xattr is one extended attribute.
type Xattr struct{ Name, Value string }

// opaque is the attribute by which overlay knows a folder that hides what
// lower layers have in it.
const opaque = "trusted.overlay.opaque"

// Type is the node's type alone: unix.S_IFREG, unix.S_IFDIR and so on.
func (n *Node) Type() uint32 { return n.Mode & unix.S_IFMT }

func (n *Node) isFolder() bool { return n.Type() == unix.S_IFDIR }

// whiteout tells whether overlay takes the node for a name that is deleted.
func (n *Node) whiteout() bool { return n.Type() == unix.S_IFCHR && n.Rdev == 0 }

// xattr is the value of an attribute, and whether the node has it.
func (n *Node) xattr(name string) (string, bool) {
	i, has := n.findXattr(name)
	if !has {
		return "", false
	}
	return n.Xattrs[i].Value, true
}

func (n *Node) findXattr(name string) (int, bool) {
	return slices.BinarySearchFunc(n.Xattrs, name, func(x Xattr, name string) int { return cmp.Compare(x.Name, name) })
}

func (n *Node) setXattr(name, value string) {
	i, has := n.findXattr(name)
	if has {
		n.Xattrs[i].Value = value
		return
	}
	n.Xattrs = slices.Insert(n.Xattrs, i, Xattr{name, value})
}

func (n *Node) removeXattr(name string) {
	if i, has := n.findXattr(name); has {
		n.Xattrs = slices.Delete(n.Xattrs, i, i+1)
	}
}

// epoch is the time of what a layer gives no time.
var epoch = time.Unix(0, 0).UTC()

// newNode is an inode as the kernel makes one in dir: root's, and of dir's
// group where dir is set-gid.
func newNode(dir *Node, mode uint32) *Node {
	n := &Node{Mode: mode, ModTime: epoch}
	if dir.Mode&unix.S_ISGID != 0 {
		n.GID = dir.GID
	}
	return n
}

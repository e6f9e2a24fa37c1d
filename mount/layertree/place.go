package layertree

import (
	"archive/tar"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
)

// Limits of Linux. A path stays this far below PATH_MAX (4096) because
// containerd puts its own folder in front of it, and refuses what is longer then.
const (
	maxName   = 255
	maxTarget = 4095
	maxPath   = 4096 - 256
)

// place puts one entry into the tree, in the order of steps in which
// containerd's unpacker does.
func (l *layer) place(h *tar.Header) error {
	if strings.ContainsRune(h.Name, 0) {
		return refuse(h, "a zero byte is in the name")
	}
	parent, base := path.Split(path.Clean(h.Name))
	if base == "" || base == "." || base == ".." {
		return l.skip(h) // the root itself
	}
	dir, dirPath, err := l.folder(h, parent)
	if err != nil {
		return err
	}
	if base == opaqueMarker {
		dir.setXattr(opaque, "y")
		return l.skip(h)
	}
	if deleted, is := strings.CutPrefix(base, whiteoutPrefix); is {
		return l.whiteout(h, dir, dirPath, deleted)
	}
	return l.replace(h, dir, dirPath, base)
}

func (l *layer) whiteout(h *tar.Header, dir *Node, dirPath, name string) error {
	if name == "" || name == "." || name == ".." {
		return refuse(h, "a whiteout of no name")
	}
	if dir.Children[name] != nil {
		return refuse(h, "a whiteout of a name that the same layer has already made")
	}
	n := newNode(dir, unix.S_IFCHR)
	setOwner(n, h)
	if err := l.add(h, dir, dirPath, name, n); err != nil {
		return err
	}
	return l.skip(h)
}

// replace makes the entry under its name in dir. What was there goes, except a
// folder for which a folder comes: then only its attributes change.
func (l *layer) replace(h *tar.Header, dir *Node, dirPath, base string) error {
	there := dir.Children[base]
	if there != nil && !(there.isFolder() && h.Typeflag == tar.TypeDir) {
		l.remove(dir, base)
		there = nil
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	n, err := l.node(h, dir, there, path.Join(dirPath, base))
	if err != nil {
		return err
	}
	if n != there {
		if err := l.add(h, dir, dirPath, base, n); err != nil {
			return err
		}
	}
	if h.Typeflag == tar.TypeDir {
		l.folders = append(l.folders, folderTime{path.Clean(h.Name), boundTime(h.ModTime)})
	}
	return setAttributes(n, h)
}

// node is the inode that an entry stands for, without its attributes. own is the
// path that it is for.
func (l *layer) node(h *tar.Header, dir, there *Node, own string) (*Node, error) {
	switch h.Typeflag {
	case tar.TypeDir:
		if there != nil {
			return there, nil
		}
		return newNode(dir, unix.S_IFDIR), nil
	case tar.TypeReg, '\x00': // the second is what old tars have
		n := newNode(dir, unix.S_IFREG)
		number, err := l.file(h)
		n.Size, n.Content = h.Size, number
		return n, err
	case tar.TypeSymlink:
		return symlink(h, dir)
	case tar.TypeLink:
		return l.linked(h, own)
	case tar.TypeBlock, tar.TypeChar, tar.TypeFifo:
		return device(h, dir)
	}
	return nil, refuse(h, fmt.Sprintf("entries of type %q are not unpacked", h.Typeflag))
}

func symlink(h *tar.Header, dir *Node) (*Node, error) {
	if len(h.Linkname) == 0 || len(h.Linkname) > maxTarget || strings.ContainsRune(h.Linkname, 0) {
		return nil, refuse(h, "a symbolic link to nothing, or to a name too long")
	}
	n := newNode(dir, unix.S_IFLNK|0o777)
	n.Target = h.Linkname
	return n, nil
}

// device is a device or a named pipe. The kernel takes 12 bits of a major and
// 20 of a minor number and drops the rest, without a word.
func device(h *tar.Header, dir *Node) (*Node, error) {
	const most = 1<<32 - 1
	if h.Devmajor < 0 || h.Devmajor > most || h.Devminor < 0 || h.Devminor > most {
		return nil, refuse(h, fmt.Sprintf("there is no device %d:%d", h.Devmajor, h.Devminor))
	}
	if h.Typeflag == tar.TypeFifo {
		return newNode(dir, unix.S_IFIFO), nil
	}
	n := newNode(dir, unix.S_IFCHR)
	if h.Typeflag == tar.TypeBlock {
		n.Mode = unix.S_IFBLK
	}
	n.Rdev = unix.Mkdev(uint32(h.Devmajor)&0xfff, uint32(h.Devminor)&0xfffff)
	return n, nil
}

// add gives an inode one more name.
func (l *layer) add(h *tar.Header, dir *Node, dirPath, name string, n *Node) error {
	if len(name) > maxName || len(dirPath)+1+len(name) > maxPath {
		return refuse(h, "the name or its path is too long")
	}
	if dir.Children == nil {
		dir.Children = make(map[string]*Node)
	}
	if n.Links == 0 {
		l.bytes += n.Size
	}
	n.Links++
	l.names++
	dir.Children[strings.Clone(name)] = n
	return nil
}

// remove takes a name away, with all below it.
func (l *layer) remove(dir *Node, name string) {
	gone := []*Node{dir.Children[name]}
	delete(dir.Children, name)
	for len(gone) > 0 {
		n := gone[len(gone)-1]
		gone = gone[:len(gone)-1]
		l.names--
		if n.Links--; n.Links == 0 {
			l.bytes -= n.Size
		}
		for _, child := range n.Children {
			gone = append(gone, child)
		}
	}
}

// folderTime is the time of a folder that has an entry of its own. It is set
// last: what is made in a folder changes its time.
type folderTime struct {
	name string // cleaned
	time time.Time
}

// setFolderTimes looks the folders up again by their names, as containerd's
// unpacker does, and like it refuses a layer in which one is not there any more.
func (l *layer) setFolderTimes() error {
	for _, f := range l.folders {
		n, err := l.find(f.name)
		if limit := new(LimitError); errors.As(err, &limit) {
			return err
		}
		if err != nil {
			return &RefusedError{Name: f.name, Reason: "a folder of the layer is gone at the layer's end", Err: err}
		}
		n.ModTime = f.time
	}
	return nil
}

func refuse(h *tar.Header, reason string) error {
	return &RefusedError{Name: h.Name, Reason: reason}
}

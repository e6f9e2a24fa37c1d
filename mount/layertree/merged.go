package layertree

import (
	"archive/tar"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// merged is what a process would see with the layer on top of those below.
type merged struct{ l *layer }

// lstat implements view.
func (m merged) lstat(name string) (*Node, error) {
	found, err := m.find(name)
	return found.node, err
}

// found is where a path of the merged view is. below is nil for what the layer
// itself has.
type found struct {
	node  *Node
	below *lower
}

// find goes down a path the way overlay does: in each layer until one has
// something there that is no folder, or an opaque folder.
func (m merged) find(name string) (found, error) {
	layers := append([]*lower{nil}, m.l.lowers...)
	at := found{node: m.l.root}
	where := ""
	for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		if part == "" {
			break
		}
		switch {
		case at.node.Type() == unix.S_IFLNK:
			return found{}, errMiddleLink
		case !at.node.isFolder():
			return found{}, errNotFolder
		}
		where += "/" + part
		var err error
		if at, layers, err = m.visible(layers, where); err != nil {
			return found{}, err
		}
	}
	return at, nil
}

// visible gives what of layers shows at where, and those of the layers that
// make up the folder there.
func (m merged) visible(layers []*lower, where string) (top found, folders []*lower, err error) {
	for _, below := range layers {
		n, err := m.in(below, where)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return found{}, nil, err
		}
		if !n.isFolder() {
			if top.node == nil && !n.whiteout() {
				top = found{n, below}
			}
			break
		}
		if top.node == nil {
			top = found{n, below}
		}
		folders = append(folders, below)
		if _, is := n.xattr(opaque); is {
			break
		}
	}
	if top.node == nil {
		return found{}, nil, fs.ErrNotExist
	}
	return top, folders, nil
}

func (m merged) in(below *lower, where string) (*Node, error) {
	if below == nil {
		return m.l.lstat(where)
	}
	return below.withXattrs(where)
}

// linkedBelow is the inode that a hard link names and that the layer does not
// have under that name. It is copied up, as the kernel does when a link is made
// in a mounted overlay. What is at own, the link's own path, goes before.
func (l *layer) linkedBelow(h *tar.Header, own string) (*Node, error) {
	if !l.parentsKnown {
		return nil, &NeedsParentError{Name: h.Name, Reason: "it is a hard link to a file that the layer does not have"}
	}
	m := merged{l}
	_, where, err := target(m, h.Linkname)
	if err != nil {
		return nil, err
	}
	if where == own || strings.HasPrefix(where, own+"/") {
		return nil, fs.ErrNotExist
	}
	at, err := m.find(where)
	if err != nil || at.below == nil || at.node.isFolder() {
		return at.node, err
	}
	return l.copyUp(h, m, at, where)
}

func (l *layer) copyUp(h *tar.Header, m merged, at found, where string) (*Node, error) {
	dir, err := l.copyUpFolders(h, m, path.Dir(where))
	if err != nil {
		return nil, err
	}
	n := at.node
	if n.Size > 0 {
		if err := l.spent.addBytes(n.Size); err != nil {
			return nil, err
		}
		if n.Content, err = l.copyContent(at.below, where, n.Size); err != nil {
			return nil, err
		}
	}
	return n, l.addCopy(h, dir, where, n)
}

// copyUpFolders copies up those folders of a path that the layer does not have.
func (l *layer) copyUpFolders(h *tar.Header, m merged, where string) (*Node, error) {
	dir, rest := l.descend(where)
	done := strings.TrimSuffix(strings.TrimSuffix(where, rest), "/")
	for rest != "" {
		name, after, _ := strings.Cut(rest, "/")
		rest, done = after, done+"/"+name
		at, err := m.find(done)
		if err != nil {
			return nil, err
		}
		if err := l.addCopy(h, dir, done, at.node); err != nil {
			return nil, err
		}
		dir = at.node
	}
	return dir, nil
}

// addCopy puts a node of a layer below into the tree, without the attributes
// that are overlay's own or that the host gives.
func (l *layer) addCopy(h *tar.Header, dir *Node, where string, n *Node) error {
	n.Xattrs = slices.DeleteFunc(n.Xattrs, func(x Xattr) bool {
		return strings.HasPrefix(x.Name, "trusted.overlay.") || x.Name == "security.selinux" || acl(x.Name)
	})
	size := nodeBytes + folderBytes + len(where)
	for _, x := range n.Xattrs {
		size += len(x.Name) + len(x.Value)
	}
	if err := errors.Join(l.spent.addEntry(), l.spent.addMetadata(size)); err != nil {
		return err
	}
	return l.add(h, dir, path.Dir(where), path.Base(where), n)
}

func (l *layer) copyContent(below *lower, where string, size int64) (int64, error) {
	place, err := below.open(where)
	if err != nil {
		return 0, err
	}
	defer place.Close()
	f, err := os.Open(throughProc(int(place.Fd()), ""))
	if err != nil {
		return 0, fmt.Errorf("read a file of a layer below: %w", err)
	}
	defer f.Close()
	c := &content{r: f, left: size}
	number, err := l.sink.File(c, size)
	if err = errors.Join(c.err, err); err == nil && c.left > 0 {
		err = fmt.Errorf("%d bytes were left", c.left)
	}
	if err != nil {
		return 0, fmt.Errorf("copy a file of a layer below: %w", err)
	}
	return number, nil
}

package layertree

import (
	"archive/tar"
	"errors"
	"io/fs"
	"path"
	"strings"
)

// linked is the inode that a hard link names. Like containerd's, it follows the
// links of the target's folder, within the layer, and not a last one.
func (l *layer) linked(h *tar.Header, own string) (*Node, error) {
	if strings.ContainsRune(h.Linkname, 0) {
		return nil, refuse(h, "a zero byte is in the link's target")
	}
	n, _, err := target(l, h.Linkname)
	if errors.Is(err, fs.ErrNotExist) {
		n, err = l.linkedBelow(h, own)
	}
	if err != nil {
		return nil, l.linkError(h, err)
	}
	if n.isFolder() {
		return nil, refuse(h, "a hard link to a folder")
	}
	return n, nil
}

// target is what a hard link's target names in a view, and its path.
func target(v view, name string) (*Node, string, error) {
	parent, base := path.Split(name)
	where := "/"
	if parent != "" {
		var err error
		if where, err = rootPath(v, parent); err != nil {
			return nil, "", err
		}
	}
	where = path.Join(where, base)
	n, err := lookup(v, where)
	return n, where, err
}

func (l *layer) linkError(h *tar.Header, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return refuse(h, "a hard link to a file that is not there")
	}
	return l.unresolved(h, err)
}

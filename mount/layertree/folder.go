package layertree

import (
	"archive/tar"
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// folder is the folder that an entry's parent path names, and its own path
// without links. What is missing of it is made.
func (l *layer) folder(h *tar.Header, parent string) (*Node, string, error) {
	n, rest := l.descend(parent)
	where := path.Join("/", parent)
	if !n.isFolder() || climbs(parent) {
		var err error
		if where, err = rootPath(l, parent); err != nil {
			return nil, "", l.unresolved(h, err)
		}
		n, rest = l.descend(where)
	}
	if n, err := l.implyAll(h, n, where, rest); err != nil || n.isFolder() {
		return n, where, err
	}
	return nil, "", refuse(h, "its parent is no folder")
}

// climbs tells whether a cleaned path begins with "..".
func climbs(name string) bool { return name == ".." || strings.HasPrefix(name, "../") }

// implyAll makes the folders of rest, the part of where that is not below n yet.
func (l *layer) implyAll(h *tar.Header, n *Node, where, rest string) (*Node, error) {
	done := strings.TrimSuffix(strings.TrimSuffix(where, rest), "/")
	for rest != "" {
		if !n.isFolder() {
			return nil, refuse(h, "a part of its path is no folder")
		}
		name, after, _ := strings.Cut(rest, "/")
		done += "/" + name
		var err error
		if n, err = l.implied(h, n, done, name); err != nil {
			return nil, err
		}
		rest = after
	}
	return n, nil
}

// unresolved refuses a path that cannot be followed. Other errors say nothing of
// the layer.
func (l *layer) unresolved(h *tar.Header, err error) error {
	if unclear := new(pathError); errors.As(err, unclear) {
		return &RefusedError{Name: h.Name, Reason: "its path cannot be followed", Err: *unclear}
	}
	return err
}

// implied makes a folder that has no entry of its own, or not yet: with the
// attributes of the folder below, where there is one.
func (l *layer) implied(h *tar.Header, dir *Node, where, name string) (*Node, error) {
	if err := l.spent.addEntry(); err != nil {
		return nil, err
	}
	if err := l.spent.addMetadata(nodeBytes + folderBytes + len(name)); err != nil {
		return nil, err
	}
	if !l.parentsKnown {
		return nil, &NeedsParentError{Name: h.Name, Reason: "its folder may have the attributes of the one below"}
	}
	n := newNode(dir, unix.S_IFDIR|0o755)
	if err := l.copyFolder(n, where); err != nil {
		return nil, l.unresolved(h, err)
	}
	return n, l.add(h, dir, path.Dir(where), name, n)
}

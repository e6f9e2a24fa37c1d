package layertree

import (
	"errors"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// view is something in which paths can be looked up: the tree that is being
// made, a layer below it, or both together.
type view interface {
	// lstat gives what is at an absolute clean path. Errors: fs.ErrNotExist,
	// errNotFolder where a part in the middle is none, errMiddleLink where it is a
	// symbolic link.
	lstat(path string) (*Node, error)
}

// pathError says why a path leads nowhere: the layer's fault.
type pathError string

func (e pathError) Error() string { return string(e) }

const (
	errNotFolder   pathError = "a part of the path is no folder"
	errMiddleLink  pathError = "a part of the path is a symbolic link"
	errHost        pathError = "what a link means depends on files of the host"
	errManyLinks   pathError = "too many symbolic links"
	errLongPath    pathError = "the path is too long"
	errInvalidPath pathError = "a part of the path is not valid"
)

// resolver finds where a path leads, in the very steps of containerd's
// (continuity's fs.RootPath): they treat the parts of a link's target that are
// not there, and .., in their own way, and what a layer means follows from it.
type resolver struct {
	view  view
	links int // followed so far
}

// rootPath is the absolute clean path to which name leads when all its symbolic
// links, also the last, are followed and none leaves the root. It need not exist.
func rootPath(v view, name string) (string, error) {
	r := resolver{view: v}
	for {
		before := r.links
		next, err := r.walk(name)
		if err != nil {
			return "", err
		}
		name = next
		if r.links > before {
			continue
		}
		next = path.Join("/", next)
		if name == next {
			return next, nil
		}
		name = next
	}
}

// walk follows the links of all parts of a path once.
func (r *resolver) walk(name string) (string, error) {
	if len(name) > 2*maxPath {
		return "", errLongPath
	}
	dir, base := path.Split(name)
	switch {
	case dir == "":
		next, _, err := r.step(base)
		return next, err
	case base == "" && dir == "/":
		return dir, nil
	case base == "":
		return r.walk(dir[:len(dir)-1])
	}
	dir, err := r.walk(dir)
	if err != nil {
		return "", err
	}
	next, link, err := r.step(path.Join(dir, base))
	if err != nil || !link || path.IsAbs(next) {
		return next, err
	}
	return path.Join(dir, next), nil
}

// step gives the target of a link, or the path as it is.
func (r *resolver) step(name string) (next string, link bool, err error) {
	const mostLinks = 255 // containerd's
	if r.links > mostLinks {
		return "", false, errManyLinks
	}
	name = path.Join("/", name)
	if name == "/" {
		return name, false, nil
	}
	n, err := lookup(r.view, name)
	if errors.Is(err, fs.ErrNotExist) {
		return name, false, nil
	}
	if err != nil || n.Type() != unix.S_IFLNK {
		return name, false, err
	}
	r.links++
	return n.Target, true, nil
}

// lookup is the kernel's lstat: it follows links in the middle of a path. One
// that leads out of the layer would be followed on the host's file system, so
// what containerd sees there is not told by the layer.
func lookup(v view, name string) (*Node, error) {
	if err := checkPath(name); err != nil {
		return nil, err
	}
	n, err := v.lstat(name)
	if !errors.Is(err, errMiddleLink) {
		return n, err
	}
	return follow(v, name)
}

func checkPath(name string) error {
	if len(name) > maxPath {
		return errLongPath
	}
	for part := range strings.SplitSeq(name, "/") {
		if len(part) > maxName || strings.ContainsRune(part, 0) {
			return errInvalidPath
		}
	}
	return nil
}

// follow walks a path part by part. done is always free of links.
func follow(v view, name string) (*Node, error) {
	const mostLinks = 40 // the kernel's
	done, todo := "/", strings.Split(name, "/")
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		if part == "" || part == "." {
			continue
		}
		if part == ".." {
			if done == "/" {
				return nil, errHost
			}
			done = path.Dir(done)
			continue
		}
		next := path.Join(done, part)
		n, err := v.lstat(next)
		if err != nil || len(todo) == 0 {
			return n, err
		}
		if n.Type() != unix.S_IFLNK {
			done = next
			continue
		}
		if links++; links > mostLinks {
			return nil, errManyLinks
		}
		if path.IsAbs(n.Target) {
			return nil, errHost
		}
		if todo = append(strings.Split(n.Target, "/"), todo...); len(todo) > maxPath {
			return nil, errLongPath
		}
	}
	return v.lstat(done)
}

// lstat looks a path up in the tree as it is now.
func (l *layer) lstat(name string) (*Node, error) {
	n, rest := l.descend(name)
	if err := l.spent.addSteps(1 + strings.Count(name, "/")); err != nil {
		return nil, err
	}
	switch {
	case rest == "":
		return n, nil
	case n.isFolder():
		return nil, fs.ErrNotExist
	case n.Type() == unix.S_IFLNK:
		return nil, errMiddleLink
	}
	return nil, errNotFolder
}

// descend goes as far down a clean path as there are names, and through folders
// alone. It gives the last node it came to, and what is left of the path.
func (l *layer) descend(name string) (n *Node, rest string) {
	n, rest = l.root, strings.Trim(name, "/")
	for rest != "" && n.isFolder() {
		part, after, _ := strings.Cut(rest, "/")
		child := n.Children[part]
		if child == nil {
			break
		}
		n, rest = child, after
	}
	return n, rest
}

// find is the inode at a name, the last link followed too.
func (l *layer) find(name string) (*Node, error) {
	if n, rest := l.descend(name); rest == "" && n.Type() != unix.S_IFLNK {
		return n, nil
	}
	where, err := rootPath(l, name)
	if err != nil {
		return nil, err
	}
	return lookup(l, where)
}

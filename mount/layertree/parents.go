package layertree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Parents are the layers below one. A nil *Parents says that they are not
// known; OpenParents of none says that there are none.
type Parents struct {
	roots []*os.File // O_PATH; the topmost first
}

// OpenParents opens the folders of the layers below, the topmost first, as an
// overlay's lowerdir lists them. They must not change while they are used.
func OpenParents(lowers []string) (*Parents, error) {
	p := new(Parents)
	for _, folder := range lowers {
		f, err := os.OpenFile(folder, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open a layer below: %w", err), p.Close())
		}
		p.roots = append(p.roots, f)
	}
	return p, nil
}

// Close ends the use of the layers below. A nil *Parents has nothing to close.
func (p *Parents) Close() error {
	if p == nil {
		return nil
	}
	var errs []error
	for _, f := range p.roots {
		errs = append(errs, f.Close())
	}
	p.roots = nil
	return errors.Join(errs...)
}

// lowers are the layers below for one Read, which pays for looking into them.
func (p *Parents) lowers(s *spent) []*lower {
	if p == nil {
		return nil
	}
	var all []*lower
	for _, f := range p.roots {
		all = append(all, &lower{root: f, spent: s})
	}
	return all
}

// copyFolder gives an implied folder the attributes of the folder below. Like
// containerd's it asks each layer on its own, the topmost first, and the first
// that has anything there decides.
func (l *layer) copyFolder(n *Node, where string) error {
	for _, lower := range l.lowers {
		below, err := lower.folderAt(where)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil || !below.isFolder() {
			return err
		}
		n.Mode, n.UID, n.GID, n.ModTime = below.Mode, below.UID, below.GID, below.ModTime
		n.Xattrs = slices.DeleteFunc(below.Xattrs, func(x Xattr) bool { return !inherited(x.Name) })
		return nil
	}
	return nil
}

// inherited tells which attributes go from a folder below to an implied one:
// neither the administrator's nor those that the host gives every file itself.
func inherited(name string) bool {
	return strings.HasPrefix(name, userPrefix) || strings.HasPrefix(name, "security.") && name != "security.selinux"
}

// lower is one layer below, by itself: whiteouts are devices in it.
type lower struct {
	root   *os.File // O_PATH
	spent  *spent
	absent string // a path that is not there, so that nothing below it is
}

// folderAt follows the links of a path within the layer, and gives what is
// there with its extended attributes.
func (l *lower) folderAt(where string) (*Node, error) {
	if l.absent != "" && strings.HasPrefix(where, l.absent+"/") {
		return nil, fs.ErrNotExist
	}
	n, err := l.withXattrs(where)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		l.absent = where
		return nil, err
	case err == nil && n.Type() != unix.S_IFLNK:
		return n, nil
	case err != nil && !errors.Is(err, errMiddleLink):
		return nil, err
	}
	if where, err = rootPath(l, where); err != nil {
		return nil, err
	}
	return l.withXattrs(where)
}

// lstat implements view.
func (l *lower) lstat(name string) (*Node, error) {
	f, err := l.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return stat(f)
}

// withXattrs is lstat with the extended attributes.
func (l *lower) withXattrs(name string) (*Node, error) {
	f, err := l.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	n, err := stat(f)
	if err != nil {
		return nil, err
	}
	n.Xattrs, err = listXattrs(f)
	return n, err
}

// openCost is what one call to the kernel costs, in steps through a tree.
const openCost = 10

// open opens what is at an absolute clean path as a place only (O_PATH), without
// following any link. Errors are those of view.lstat.
func (l *lower) open(name string) (*os.File, error) {
	if err := l.spent.addSteps(openCost); err != nil {
		return nil, err
	}
	fd, err := unix.Openat2(int(l.root.Fd()), path.Join(".", name), &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		// A link, a file in the middle, or a kernel before 5.6.
		fd, err = l.openByParts(name)
	}
	if err != nil {
		return nil, lowerError(err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (l *lower) openByParts(name string) (int, error) {
	fd, err := openAt(int(l.root.Fd()), ".", unix.O_PATH|unix.O_DIRECTORY)
	for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		if err != nil || part == "" {
			break
		}
		fd, err = l.enterPart(fd, part)
	}
	return fd, err
}

// enterPart opens one name in a place, and closes that place.
func (l *lower) enterPart(fd int, part string) (int, error) {
	next, err := -1, l.spent.addSteps(openCost)
	if err == nil {
		next, err = openAt(fd, part, unix.O_PATH)
	}
	if errors.Is(err, unix.ENOTDIR) {
		err = middle(fd)
	}
	unix.Close(fd)
	return next, err
}

// middle says what a place is that has no names in it.
func middle(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return errMiddleLink
	}
	return errNotFolder
}

func lowerError(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return fs.ErrNotExist
	}
	if unclear := new(pathError); errors.As(err, unclear) || errors.As(err, new(*LimitError)) {
		return err
	}
	return fmt.Errorf("look into a layer below: %w", err)
}

package layertree

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// walker makes a tree's folders and puts their names in. It has one folder open,
// two for a moment, however deep the tree is: from a folder that is done it goes
// back through "..", which cannot be another one because nobody else moves what
// is in a Directory; that it is the same is looked at all the same.
type walker struct {
	ctx context.Context
	d   *Directory
	fd  int // of the folder where it is
}

func (w *walker) close() error { return unix.Close(w.fd) }

// fill makes all that is below the folder where the walker is, and gives that its
// attributes at the end: to make something in a folder changes its time.
func (w *walker) fill(n *Node) error {
	var folders []string
	for _, name := range slices.Sorted(maps.Keys(n.Children)) {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		child := n.Children[name]
		if child.isFolder() {
			folders = append(folders, name)
			continue
		}
		if err := w.put(name, child); err != nil {
			return err
		}
	}
	for _, name := range folders {
		if err := w.folder(name, n.Children[name]); err != nil {
			return err
		}
	}
	return w.attributesOfFolder(n)
}

func (w *walker) folder(name string, n *Node) error {
	here, err := identity(w.fd)
	if err != nil {
		return err
	}
	fd, err := makeFolder(w.fd, name)
	if err != nil {
		return err
	}
	if err := w.enter(fd); err != nil {
		return err
	}
	if err := w.fill(n); err != nil {
		return err
	}
	return w.leave(here)
}

func (w *walker) enter(fd int) error {
	err := unix.Close(w.fd)
	w.fd = fd
	return err
}

// leave goes up to the folder that up is.
func (w *walker) leave(up inode) error {
	fd, err := openAt(w.fd, "..", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("go back to a folder: %w", err)
	}
	if err := w.enter(fd); err != nil {
		return err
	}
	there, err := identity(fd)
	if err == nil && there != up {
		err = errors.New("a folder was moved while it was filled")
	}
	return err
}

// put makes one name that is no folder.
func (w *walker) put(name string, n *Node) error {
	if n.Links > 1 {
		return w.link(name, n)
	}
	var err error
	if n.Content != 0 {
		err = wrap("renameat", name, unix.Renameat(w.d.staging, stagedName(n.Content), w.fd, name))
	} else {
		err = makeInode(w.fd, name, n)
	}
	if err != nil {
		return err
	}
	return setInode(w.fd, name, n)
}

// link gives an inode one of its names. The inode is made in the staging folder,
// and linked from there to each.
func (w *walker) link(name string, n *Node) error {
	first, is := w.d.made[n]
	if !is {
		first = stagedName(n.Content)
		if n.Content == 0 {
			first = "link" + strconv.Itoa(len(w.d.made))
			if err := makeInode(w.d.staging, first, n); err != nil {
				return err
			}
		}
		if err := setInode(w.d.staging, first, n); err != nil {
			return err
		}
		w.d.made[n] = first
	}
	return wrap("linkat", name, unix.Linkat(w.d.staging, first, w.fd, name, 0))
}

// makeInode makes an inode that has no content.
func makeInode(dir int, name string, n *Node) error {
	switch n.Type() {
	case unix.S_IFREG:
		fd, err := create(dir, name)
		if err != nil {
			return err
		}
		return wrap("close", name, unix.Close(fd))
	case unix.S_IFLNK:
		return wrap("symlinkat", name, unix.Symlinkat(n.Target, dir, name))
	}
	return wrap("mknodat", name, unix.Mknodat(dir, name, n.Mode, int(n.Rdev)))
}

// setInode gives what was just made its attributes, in an order in which
// none undoes another: chown takes capabilities and set-id bits away.
func setInode(dir int, name string, n *Node) error {
	if err := unix.Fchownat(dir, name, int(n.UID), int(n.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return wrap("fchownat", name, err)
	}
	if err := setXattrsAt(throughProc(dir, name), n); err != nil {
		return wrap("setxattr", name, err)
	}
	if n.Type() != unix.S_IFLNK {
		if err := unix.Fchmodat(dir, name, n.Mode&0o7777, 0); err != nil {
			return wrap("fchmodat", name, err)
		}
	}
	return wrap("utimensat", name, unix.UtimesNanoAt(dir, name, times(n), unix.AT_SYMLINK_NOFOLLOW))
}

// setXattrsAt follows no link. Where the file system has no such attributes a
// layer does without, as with containerd; but not without those of overlay.
func setXattrsAt(path string, n *Node) error {
	for _, x := range n.Xattrs {
		err := unix.Lsetxattr(path, x.Name, []byte(x.Value), 0)
		if err == nil || errors.Is(err, unix.ENOTSUP) && x.Name != opaque {
			continue
		}
		return fmt.Errorf("%s: %w", x.Name, err)
	}
	return nil
}

// attributesOfFolder is setInode for the folder where the walker is.
func (w *walker) attributesOfFolder(n *Node) error {
	if err := unix.Fchown(w.fd, int(n.UID), int(n.GID)); err != nil {
		return wrap("fchown", ".", err)
	}
	if err := setXattrsAt(throughProc(w.fd, "."), n); err != nil {
		return wrap("setxattr", ".", err)
	}
	if err := unix.Fchmod(w.fd, n.Mode&0o7777); err != nil {
		return wrap("fchmod", ".", err)
	}
	return wrap("utimensat", ".", unix.UtimesNanoAt(w.fd, ".", times(n), unix.AT_SYMLINK_NOFOLLOW))
}

// times are those of last use and last change: a layer tells the second only.
func times(n *Node) []unix.Timespec {
	t := unix.NsecToTimespec(n.ModTime.UnixNano())
	return []unix.Timespec{t, t}
}

func wrap(call, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: call, Path: shortened(name), Err: err}
}

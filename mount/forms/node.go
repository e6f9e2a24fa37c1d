package forms

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/mount/layertree"
)

// found is one name in a folder on the disk.
type found struct {
	layertree.Node
	ino    uint64
	blocks int64 // of 512 bytes
}

func (f *found) isFolder() bool  { return f.Mode&unix.S_IFMT == unix.S_IFDIR }
func (f *found) isRegular() bool { return f.Mode&unix.S_IFMT == unix.S_IFREG }

// look reads what a name in a folder is. Links are not followed. name "." is the
// folder itself.
func look(folder int, name string) (*found, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(folder, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	f := &found{ino: st.Ino, blocks: st.Blocks}
	f.Mode, f.UID, f.GID = st.Mode, st.Uid, st.Gid
	f.ModTime, f.Links = time.Unix(st.Mtim.Unix()), int(st.Nlink)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		f.Size = st.Size
	case unix.S_IFCHR, unix.S_IFBLK:
		f.Rdev = st.Rdev
	case unix.S_IFLNK:
		target, err := readLink(folder, name, st.Size)
		if err != nil {
			return nil, err
		}
		f.Target = target
	}
	xattrs, err := readXattrs(folder, name)
	f.Xattrs = xattrs
	return f, err
}

func readLink(folder int, name string, size int64) (string, error) {
	buf := make([]byte, max(size, 255)+1)
	n, err := unix.Readlinkat(folder, name, buf)
	if err != nil {
		return "", &os.PathError{Op: "readlink", Path: name, Err: err}
	}
	return string(buf[:n]), nil
}

// readXattrs goes by /proc: there is no call for a name in a folder, and the
// whole path may be longer than the kernel takes.
func readXattrs(folder int, name string) (all []layertree.Xattr, err error) {
	path := "/proc/self/fd/" + strconv.Itoa(folder) + "/" + name
	list, err := grow(func(buf []byte) (int, error) { return unix.Llistxattr(path, buf) })
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "listxattr", Path: name, Err: err}
	}
	for _, attribute := range strings.Split(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		if attribute == "" {
			continue
		}
		value, err := grow(func(buf []byte) (int, error) { return unix.Lgetxattr(path, attribute, buf) })
		if errors.Is(err, unix.ENODATA) {
			continue // not for us: trusted ones are root's
		}
		if err != nil {
			return nil, &os.PathError{Op: "getxattr " + attribute, Path: name, Err: err}
		}
		all = append(all, layertree.Xattr{Name: attribute, Value: string(value)})
	}
	slices.SortFunc(all, func(a, b layertree.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// grow calls read with as large a buffer as it wants.
func grow(read func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 4 {
		buf := make([]byte, size)
		n, err := read(buf)
		if errors.Is(err, unix.ERANGE) && size < 1<<20 { // the kernel takes 64 KiB at most
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}

// openFolder opens a folder for looking into; a link is refused.
func openFolder(parent int, name string) (*os.File, error) {
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openRegular opens a regular file for reading; no device or fifo is touched.
func openRegular(parent int, name string) (*os.File, error) {
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

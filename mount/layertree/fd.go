package layertree

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// openAt opens one name in a folder, never through a link.
func openAt(dir int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// stat is the Node of an open place, without content and extended attributes.
func stat(f *os.File) (*Node, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("look into a layer below: %w", err)
	}
	n := &Node{
		Mode:    st.Mode,
		UID:     st.Uid,
		GID:     st.Gid,
		ModTime: boundTime(time.Unix(st.Mtim.Unix())),
	}
	switch n.Type() {
	case unix.S_IFREG:
		n.Size = st.Size
	case unix.S_IFBLK, unix.S_IFCHR:
		n.Rdev = st.Rdev
	case unix.S_IFLNK:
		target, err := readLink(f)
		n.Target = target
		return n, err
	}
	return n, nil
}

func readLink(f *os.File) (string, error) {
	target := make([]byte, maxTarget+1)
	size, err := unix.Readlinkat(int(f.Fd()), "", target)
	if err != nil {
		return "", fmt.Errorf("read a link of a layer below: %w", err)
	}
	return string(target[:size]), nil
}

// throughProc is a path to an open place, or to a name in one: the calls for
// extended attributes take no O_PATH descriptor. With a name it must be used
// with the calls that follow no link.
func throughProc(fd int, name string) string {
	path := "/proc/self/fd/" + strconv.Itoa(fd)
	if name != "" {
		path += "/" + name
	}
	return path
}

// listXattrs gives an open place's extended attributes, sorted.
func listXattrs(f *os.File) ([]Xattr, error) {
	path := throughProc(int(f.Fd()), "")
	names, err := readAll(func(p []byte) (int, error) { return unix.Listxattr(path, p) })
	if err != nil {
		return nil, fmt.Errorf("list attributes in a layer below: %w", err)
	}
	var all []Xattr
	for name := range strings.SplitSeq(strings.TrimRight(names, "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value, err := readAll(func(p []byte) (int, error) { return unix.Getxattr(path, name, p) })
		if err != nil {
			return nil, fmt.Errorf("read attribute %s in a layer below: %w", name, err)
		}
		all = append(all, Xattr{name, value})
	}
	slices.SortFunc(all, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// readAll calls one of the calls that first tell the size they need.
func readAll(call func([]byte) (int, error)) (string, error) {
	size, err := call(nil)
	if errors.Is(err, unix.ENOTSUP) || err == nil && size == 0 {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	value := make([]byte, size)
	size, err = call(value)
	if err != nil {
		return "", err
	}
	return string(value[:size]), nil
}

// makeFolder makes a folder and opens it.
func makeFolder(dir int, name string) (int, error) {
	if err := unix.Mkdirat(dir, name, 0o700); err != nil {
		return -1, wrap("mkdirat", name, err)
	}
	fd, err := openAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
	return fd, wrap("openat", name, err)
}

// create makes a file that is not there, for writing.
func create(dir int, name string) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if !errors.Is(err, unix.EINTR) {
			return fd, wrap("openat", name, err)
		}
	}
}

// inode says which file a descriptor is of.
type inode struct{ device, number uint64 }

func identity(fd int) (inode, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return inode{}, fmt.Errorf("look at a folder: %w", err)
	}
	return inode{st.Dev, st.Ino}, nil
}

// namesIn lists a folder.
func namesIn(fd int) ([]string, error) {
	again, err := openAt(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(again), "staging")
	defer f.Close()
	return f.Readdirnames(-1)
}

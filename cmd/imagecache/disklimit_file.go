package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	ctdmount "github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/api"
)

const (
	limitFile      = "limited.ext4" // beside fs and work
	limitMount     = "limited"
	limitBytes     = "limited.bytes" // holds the limit, as decimal text
	programFolders = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// ballastName is a file in that file system which takes what is left of it beyond the limit: how much ext4 needs for itself can be told
	// only when it is made.
	ballastName = "ballast"
)

// limitByFile makes a file system that has room for so many bytes, mounts it, and gives the folder. It has folders fs and work as dir has.
func limitByFile(dir string, size int64) (folder string, err error) {
	folder = filepath.Join(dir, limitMount)
	image := filepath.Join(dir, limitFile)
	// A sixteenth and 16 MiB are more than ext4 needs for inodes, of which it has one for 8 KiB, and for what it keeps back.
	if err := makeSparse(image, size+size/16+16<<20); err != nil {
		return "", err
	}
	if err := makeExt4(image); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, limitBytes), strconv.AppendInt(nil, size, 10), 0o600); err != nil {
		return "", err
	}
	if err := os.Mkdir(folder, 0o711); err != nil {
		return "", err
	}
	// Inodes that are not in use are zeros already, and would be written for nothing; what is deleted is given back to the disk.
	ext4 := ctdmount.Mount{Type: "ext4", Source: image, Options: []string{"loop", "noinit_itable", "discard"}}
	if err := ext4.Mount(folder); err != nil {
		return "", fmt.Errorf("mounting %s: %w", image, err)
	}
	for _, name := range []string{"fs", "work"} {
		if err := makeLike(filepath.Join(folder, name), filepath.Join(dir, name)); err != nil {
			return "", err
		}
	}
	return folder, fillUp(folder, size)
}

func makeSparse(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// makeExt4 makes a file system without a journal: after a crash of the machine it is not used again, for nothing that ran on it is there any
// more.
func makeExt4(image string) error {
	program, err := findProgram("mkfs.ext4")
	if err != nil {
		return &hintedError{err, "install e2fsprogs"}
	}
	cmd := exec.Command(program, "-q", "-F", "-b", "4096", "-i", "8192", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", image)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// findProgram looks where administrators' programs are: Garden's PATH may not.
func findProgram(name string) (string, error) {
	for _, dir := range filepath.SplitList(programFolders) {
		if path := filepath.Join(dir, name); exists(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("there is no %s", name)
}

// makeLike makes a folder with the mode and the owner of another.
func makeLike(path, like string) error {
	info, err := os.Stat(like)
	if err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		err = os.Lchown(path, int(stat.Uid), int(stat.Gid))
	}
	return errors.Join(err, os.Chmod(path, info.Mode()))
}

// fillUp leaves just so many bytes free.
func fillUp(folder string, size int64) error {
	free, err := freeOf(folder)
	if err != nil {
		return err
	}
	if free < size {
		return fmt.Errorf("the file system has room for %d bytes only", free)
	}
	f, err := os.OpenFile(filepath.Join(folder, ballastName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if free > size {
		err = unix.Fallocate(int(f.Fd()), 0, 0, free-size)
	}
	return errors.Join(err, f.Close())
}

// freeOf tells how many bytes can be written still.
func freeOf(folder string) (int64, error) {
	var s unix.Statfs_t
	err := unix.Statfs(folder, &s)
	return int64(s.Bavail) * s.Bsize, err
}

// unlimit unmounts what limits a root filesystem, which is not mounted any more; the file goes with it.
func unlimit(r api.Rootfs) error {
	dir := filepath.Dir(r.Upper)
	if !exists(filepath.Join(dir, limitMount)) {
		return nil
	}
	return unmountAll(filepath.Join(dir, limitMount))
}

// writtenWithinLimit tells how much of the limit is used; limited is false where there is none.
func writtenWithinLimit(r api.Rootfs) (bytes int64, limited bool, err error) {
	dir := filepath.Dir(r.Upper)
	text, err := os.ReadFile(filepath.Join(dir, limitBytes))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	limit, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil {
		return 0, false, err
	}
	free, err := freeOf(filepath.Join(dir, limitMount))
	return max(0, limit-free), true, err
}

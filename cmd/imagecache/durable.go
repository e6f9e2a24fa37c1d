package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// writeDurable puts content where path says, wholly or not at all, and is back only when it would survive a power cut: a temporary file
// beside it, fsync, rename, fsync of the folder. The file gets the mode, and the owner too where like is not nil and we may give files away.
func writeDurable(path string, content []byte, mode fs.FileMode, like fs.FileInfo) (err error) {
	temporary := path + suffixNew
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close() // a second close changes nothing
			_ = os.Remove(temporary)
		}
	}()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := giveTo(f, like); err != nil {
		return err
	}
	// Chmod, not the mode of open: what stood there must not lose rights to our umask.
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// giveTo makes the owner of like the owner of f.
func giveTo(f *os.File, like fs.FileInfo) error {
	if like == nil {
		return nil
	}
	stat, known := like.Sys().(*syscall.Stat_t)
	if !known || (int(stat.Uid) == os.Geteuid() && int(stat.Gid) == os.Getegid()) {
		return nil
	}
	if err := f.Chown(int(stat.Uid), int(stat.Gid)); err != nil {
		return fmt.Errorf("keeping the owner of %s: %w", like.Name(), err)
	}
	return nil
}

// syncFolder makes renames, links and removals in a folder durable.
func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("fsync %s: %w", path, err)
	}
	return nil
}

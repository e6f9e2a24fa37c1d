package forms

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// removeTree deletes a file or a folder with all that is in it, until ctx ends. It
// goes by folders that are open, so that no depth is too much for a path, and
// never follows a link.
func removeTree(ctx context.Context, path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	err = removeName(ctx, int(d.Fd()), filepath.Base(path))
	if err != nil && ctx.Err() == nil {
		return &fs.PathError{Op: "remove", Path: path, Err: err}
	}
	return err
}

func removeName(ctx context.Context, folder int, name string) error {
	err := unix.Unlinkat(folder, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	if err := removeContent(ctx, folder, name); err != nil {
		return err
	}
	err = unix.Unlinkat(folder, name, unix.AT_REMOVEDIR)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// removeStep is how many names are read before they are deleted: a folder may
// have a million.
const removeStep = 1024

func removeContent(ctx context.Context, folder int, name string) error {
	d, err := openFolder(folder, name)
	if errors.Is(err, unix.EACCES) { // of a layer, by an ordinary user
		if err = unix.Fchmodat(folder, name, folderMode, 0); err == nil {
			d, err = openFolder(folder, name)
		}
	}
	if err != nil {
		return err
	}
	defer d.Close()
	if unix.Faccessat(int(d.Fd()), ".", unix.W_OK|unix.X_OK, 0) != nil {
		_ = d.Chmod(folderMode)
	}
	for {
		list, err := d.Readdirnames(removeStep)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if len(list) == 0 {
			return err
		}
		for _, name := range list {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := removeName(ctx, int(d.Fd()), name); err != nil {
				return err
			}
		}
		// Where a reader of a changed folder goes on is left open: from the beginning.
		if _, err := d.Seek(0, 0); err != nil {
			return err
		}
	}
}

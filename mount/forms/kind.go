package forms

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/mount/erofs"
	"github.com/imagecache/imagecache/mount/layertree"
)

// kind is a way in which a layer can lie on the disk. It knows places and bytes,
// and nothing of who uses them; its methods are called for one form by one
// goroutine at a time.
type kind interface {
	// begin makes a maker that works in a folder of its own.
	begin(dir string) (maker, error)
	// install puts what a maker made in dir in its place. A folder that has that
	// place already is aside afterwards, whole, and is so at every moment.
	install(at layout, r row, dir, aside string) error
	// present tells why a form is not where it should be.
	present(at layout, r row) error
	// paths are what is renamed to remove a form.
	paths(at layout, r row) []string
	// measure reads the whole form.
	measure(ctx context.Context, at layout, r row, how reading) (measured, error)
}

// maker makes one form of a tree whose files it is given.
type maker interface {
	layertree.Sink
	// finish makes the rest, and tells the bytes it will take on the disk, about.
	finish(ctx context.Context, tree *layertree.Tree) (bytes int64, err error)
	close()
}

// measured is what a form is on the disk.
type measured struct {
	digest        digest.Digest
	bytes, inodes int64 // inodes is 0 when it was not counted
}

func kindOf(name string) kind {
	if name == KindEROFS {
		return image{}
	}
	return directory{}
}

// madeName is what install finds in a maker's folder.
const madeName = "fs"

// directory is a form that is the folder itself.
type directory struct{}

type directoryMaker struct {
	*layertree.Directory
}

func (directory) begin(dir string) (maker, error) {
	d, err := layertree.NewDirectory(dir)
	if err != nil {
		return nil, err
	}
	return directoryMaker{d}, nil
}

func (m directoryMaker) finish(ctx context.Context, tree *layertree.Tree) (int64, error) {
	if err := m.Finish(ctx, tree); err != nil {
		return 0, err
	}
	return tree.Bytes + int64(tree.Entries)*2048, nil // exact when it is sealed
}

func (m directoryMaker) close() { m.Directory.Close() }

// install exchanges the folders where there is one already: at no moment is
// there none, and the old one has left its place for the one where it is kept.
func (directory) install(at layout, r row, dir, aside string) error {
	made, lower := filepath.Join(dir, madeName), at.lower(r.ID)
	if _, err := os.Lstat(lower); errors.Is(err, fs.ErrNotExist) {
		return os.Rename(made, lower)
	}
	if err := os.Rename(made, aside); err != nil {
		return err
	}
	err := unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, lower, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // a file system that cannot
		return errors.Join(os.Rename(aside, made), os.Rename(lower, aside), os.Rename(made, lower))
	}
	if err != nil {
		return &fs.PathError{Op: "exchange", Path: lower, Err: err}
	}
	return nil
}

func (directory) present(at layout, r row) error {
	info, err := os.Lstat(at.lower(r.ID))
	if err == nil && !info.IsDir() {
		return &fs.PathError{Op: "stat", Path: at.lower(r.ID), Err: unix.ENOTDIR}
	}
	return err
}

func (directory) paths(at layout, r row) []string { return []string{at.lower(r.ID)} }

func (directory) measure(ctx context.Context, at layout, r row, how reading) (measured, error) {
	return measureFolder(ctx, at.lower(r.ID), how)
}

// image is a form that is an EROFS file; its lower folder is where it is mounted.
type image struct{}

type imageMaker struct {
	*erofs.Writer
	file *os.File
}

func (image) begin(dir string) (maker, error) {
	f, err := os.OpenFile(filepath.Join(dir, madeName), os.O_CREATE|os.O_EXCL|os.O_RDWR, fileMode)
	if err != nil {
		return nil, err
	}
	return &imageMaker{erofs.NewWriter(f), f}, nil
}

func (m *imageMaker) finish(_ context.Context, tree *layertree.Tree) (int64, error) {
	if _, err := m.Finish(tree); err != nil {
		return 0, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(m.file.Fd()), &st); err != nil {
		return 0, err
	}
	return max(st.Size, st.Blocks*512), nil
}

func (m *imageMaker) close() {
	m.Writer.Close()
	m.file.Close()
}

// install leaves a mount of an earlier file as it is: that file lives on until it
// is unmounted.
func (image) install(at layout, r row, dir, aside string) error {
	file, lower := at.image(r), at.lower(r.ID)
	if err := makeFolders(filepath.Dir(file)); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, madeName), file); err != nil {
		return err
	}
	if len(names(lower)) > 0 { // it was a directory
		if err := os.Rename(lower, aside); err != nil {
			return err
		}
	}
	if err := os.Mkdir(lower, folderMode); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func (image) present(at layout, r row) error {
	info, err := os.Lstat(at.image(r))
	if err == nil && !info.Mode().IsRegular() {
		return &fs.PathError{Op: "stat", Path: at.image(r), Err: errors.New("no regular file")}
	}
	return err
}

// syncImage makes an EROFS form durable. For a directory there is no other way
// but a sync of each file, or of the file system.
func syncImage(at layout, r row) error {
	return errors.Join(syncFile(at.image(r)), syncFile(filepath.Dir(at.image(r))), syncFile(at.layers()))
}

func (image) paths(at layout, r row) []string { return []string{at.image(r), at.lower(r.ID)} }

func (image) measure(ctx context.Context, at layout, r row, how reading) (measured, error) {
	return measureFile(ctx, at.image(r), how)
}

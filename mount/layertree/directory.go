package layertree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Names below a Directory's folder.
const (
	madeFolder    = "fs"
	stagingFolder = "staging"
)

// Directory makes a folder of a Tree, for overlay to be used as a lower layer.
// It is the Sink for Read: the bytes of files go to one flat staging folder, and
// Finish moves them to their places. One goroutine uses it.
//
// It needs root's rights: owners, devices, and trusted attributes are set.
// What it makes is not synced.
type Directory struct {
	dir     int // descriptors; -1 once closed
	staging int
	files   int64
	zeros   *zeros
	made    map[*Node]string // names in staging of inodes with several names in the tree
}

// NewDirectory works below dir, a folder that is there, is empty, and is used by
// nobody else. After an error of NewDirectory, File or Finish the caller removes
// dir. Close it in any case.
func NewDirectory(dir string) (*Directory, error) {
	d := &Directory{dir: -1, staging: -1, zeros: newZeros(), made: make(map[*Node]string)}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	d.dir = fd
	if d.staging, err = makeFolder(fd, stagingFolder); err != nil {
		return nil, errors.Join(fmt.Errorf("make a folder to stage files: %w", err), d.Close())
	}
	return d, nil
}

// Close gives the descriptors free, and leaves all files as they are. Calling
// it again does nothing.
func (d *Directory) Close() error {
	var errs []error
	for _, fd := range []*int{&d.staging, &d.dir} {
		if *fd >= 0 {
			errs = append(errs, unix.Close(*fd))
			*fd = -1
		}
	}
	return errors.Join(errs...)
}

// File implements Sink.
func (d *Directory) File(r io.Reader, size int64) (int64, error) {
	d.files++
	fd, err := create(d.staging, stagedName(d.files))
	if err != nil {
		return 0, err
	}
	err = d.zeros.copy(fd, r, size)
	return d.files, errors.Join(err, unix.Close(fd))
}

func stagedName(number int64) string { return strconv.FormatInt(number, 10) }

// Finish makes dir/fs of a tree whose contents File has taken, and removes the
// staging folder. It ends early when ctx does.
func (d *Directory) Finish(ctx context.Context, t *Tree) error {
	root, err := makeFolder(d.dir, madeFolder)
	if err != nil {
		return fmt.Errorf("make the folder of a layer: %w", err)
	}
	w := &walker{ctx: ctx, d: d, fd: root}
	err = w.fill(t.Root)
	if err = errors.Join(err, w.close()); err != nil {
		return fmt.Errorf("make the folder of a layer: %w", err)
	}
	if err := d.removeStaging(); err != nil {
		return fmt.Errorf("remove the folder of staged files: %w", err)
	}
	return nil
}

// removeStaging removes the staging folder with what is left in it: first names
// of hard links, and files that the layer itself has taken away again.
func (d *Directory) removeStaging() error {
	left, err := namesIn(d.staging)
	if err != nil {
		return err
	}
	for _, name := range left {
		if err := unix.Unlinkat(d.staging, name, 0); err != nil {
			return &os.PathError{Op: "unlinkat", Path: name, Err: err}
		}
	}
	return unix.Unlinkat(d.dir, stagingFolder, unix.AT_REMOVEDIR)
}

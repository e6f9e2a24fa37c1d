package boltfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// File is a bolt file whose file system may be mounted read-only when it is
// opened. Then it is a copy in memory, as large as the file, that its owner
// prepares like the file itself: a file that is damaged, gone, or of an earlier
// version is made anew there. What its owner writes after [File.Settle] would
// be lost and is refused with EROFS, until the file system can be written: the
// file is opened then, and takes that write and all later ones.
//
// All methods may be called in parallel.
type File struct {
	path string
	log  *slog.Logger
	open func() (*bolt.DB, error)
	copy *bolt.DB // nil: the file itself was opened

	db      atomic.Pointer[bolt.DB]
	changes group
	refuses atomic.Bool
	opening sync.Mutex // held while the file takes the place of its copy
}

// Over is the file of a database that is open already.
func Over(db *bolt.DB) *File {
	f := &File{path: db.Path()}
	f.db.Store(db)
	return f
}

// OpenFile is [Open], on a read-only file system too. again runs in a
// transaction of its own when the file takes the place of its copy, after
// prepare; nil: nothing does.
func OpenFile(path string, log *slog.Logger, prepare, again func(*bolt.Tx) error) (*File, error) {
	db, err := Open(path, log, prepare)
	if err == nil {
		return Over(db), nil
	}
	if !errors.Is(err, unix.EROFS) {
		return nil, err
	}
	f := &File{path: path, log: log}
	if f.copy, err = openCopy(path, log, prepare); err != nil {
		return nil, err
	}
	f.db.Store(f.copy)
	f.open = func() (*bolt.DB, error) {
		db, err := Open(path, log, prepare)
		if err != nil || again == nil {
			return db, err
		}
		if err := db.Update(again); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", path, err), db.Close())
		}
		return db, nil
	}
	log.Error("file system is read-only: the database is read, and nothing is written to it", "path", path)
	return f, nil
}

// DB is what is read and written now.
func (f *File) DB() *bolt.DB { return f.db.Load() }

// Settle ends the preparations of the file's owner: from here on nothing is
// written to a copy.
func (f *File) Settle() { f.refuses.Store(f.copy != nil) }

// View is [bolt.DB.View].
func (f *File) View(read func(*bolt.Tx) error) error { return f.db.Load().View(read) }

// Update is [bolt.DB.Update]. It is an error that wraps EROFS where the file
// system is read-only.
func (f *File) Update(change func(*bolt.Tx) error) error {
	if err := f.writable(); err != nil {
		return err
	}
	return f.db.Load().Update(change)
}

// Batch is Update for changes that may share a transaction, and its syncs, with
// those that come while an earlier one is being written. The change may run more
// than once, and in another goroutine; where it fails or panics it has done so by itself.
func (f *File) Batch(change func(*bolt.Tx) error) error { return f.changes.do(f.Update, change) }

// Close closes the file, and its copy.
func (f *File) Close() error {
	f.opening.Lock()
	defer f.opening.Unlock()
	db := f.db.Load()
	if f.copy == nil || f.copy == db {
		return db.Close()
	}
	return errors.Join(db.Close(), f.copy.Close())
}

// writable opens the file in place of its copy when it can be written by now.
// The copy stays open meanwhile, for who reads it.
func (f *File) writable() error {
	if !f.refuses.Load() {
		return nil
	}
	f.opening.Lock()
	defer f.opening.Unlock()
	if !f.refuses.Load() {
		return nil
	}
	if err := unix.Access(filepath.Dir(f.path), unix.W_OK); err != nil {
		return &fs.PathError{Op: "write", Path: f.path, Err: err}
	}
	db, err := f.open()
	if err != nil {
		return err
	}
	f.db.Store(db)
	f.refuses.Store(false)
	f.log.Info("file system can be written again, and so is the database", "path", f.path)
	return nil
}

// openCopy opens a copy of the file in memory, an empty one where there is no
// sound file.
func openCopy(path string, log *slog.Logger, prepare func(*bolt.Tx) error) (db *bolt.DB, err error) {
	if _, err = examine(path); err == nil {
		db, err = prepareCopy(path, copyInto, prepare)
	}
	var damage *Damage
	if !errors.As(err, &damage) {
		return db, err
	}
	log.Error("database is made anew in memory", "path", path, "error", damage.Err)
	return prepareCopy(path, func(*os.File, string) error { return nil }, prepare)
}

// prepareCopy opens a database in memory that fill fills from the file at path.
func prepareCopy(path string, fill func(memory *os.File, path string) error, prepare func(*bolt.Tx) error) (*bolt.DB, error) {
	fd, err := unix.MemfdCreate(filepath.Base(path), unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	memory := os.NewFile(uintptr(fd), path)
	if err := fill(memory, path); err != nil {
		return nil, errors.Join(err, memory.Close())
	}
	// bbolt closes what it was given, also when it fails.
	db, err := bolt.Open(path, fileMode, &bolt.Options{
		FreelistType: bolt.FreelistMapType, NoSync: true,
		OpenFile: func(string, int, os.FileMode) (*os.File, error) { return memory, nil },
	})
	if err != nil {
		return nil, fmt.Errorf("open a copy of %s: %w", path, err)
	}
	return prepared(db, path, prepare)
}

// copyInto copies the file at path, where there is one.
func copyInto(memory *os.File, path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(memory, f)
	return err
}

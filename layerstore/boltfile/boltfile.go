// Package boltfile opens bolt files that a disk, or somebody, may have
// damaged.
//
// bbolt trusts what it maps into memory: on a damaged file it panics, some of
// it in goroutines of its own, or reads behind the file's end, for which the
// kernel ends the process. So the structure is checked first, by plain reads. A
// file that does not pass is kept beside its place for people to look at, and
// made anew; what was in it is the caller's to find again.
//
// Pages have no checksums: a bit that flips within a key or a value goes
// unnoticed here. Rows that cannot be read are the caller's to find, and to
// report as a [Damage].
package boltfile

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/imagecache/imagecache/layerstore/durable"
)

const (
	fileMode = 0o600
	// The owner of a store holds its lock, so nobody else has the file open but
	// tools that look into it: those are waited for this long.
	lockWait = time.Second
	// Between the name of a damaged file and the time, in seconds since 1970,
	// at which it was set aside.
	asideMark = ".damaged-"
	// This many damaged files are kept, the newest.
	asideMost = 2
)

// Damage says what is wrong with a file, or with a row in it.
type Damage struct {
	Err error
}

func (d *Damage) Error() string { return "damaged: " + d.Err.Error() }
func (d *Damage) Unwrap() error { return d.Err }

// ErrBusy: another process has the file open.
var ErrBusy = errors.New("in use by another process")

// Open opens the bolt file at path or makes it, and runs prepare, which tells
// by what it finds whether the file is new, in a first transaction. One that is damaged,
// or that prepare says is by returning a *[Damage], is set aside and made anew.
// Errors: [ErrBusy], what prepare returns, and those of the file system.
func Open(path string, log *slog.Logger, prepare func(*bolt.Tx) error) (*bolt.DB, error) {
	db, err := open(path, prepare)
	var damage *Damage
	if !errors.As(err, &damage) {
		return db, err
	}
	aside, err := setAside(path, time.Now())
	if err != nil {
		return nil, errors.Join(damage, err)
	}
	log.Error("database set aside and made anew", "path", path, "kept", aside, "error", damage.Err)
	return open(path, prepare)
}

func open(path string, prepare func(*bolt.Tx) error) (*bolt.DB, error) {
	made, err := examine(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	db, err := bolt.Open(path, fileMode, &bolt.Options{Timeout: lockWait, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("%s: %w", path, ErrBusy)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if db, err = prepared(db, path, prepare); err != nil {
		return nil, err
	}
	if made {
		err = durable.SyncFolder(filepath.Dir(path))
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// prepared runs prepare, and closes the database when that fails.
func prepared(db *bolt.DB, path string, prepare func(*bolt.Tx) error) (*bolt.DB, error) {
	err := db.Update(prepare)
	if err == nil {
		return db, nil
	}
	if errors.Is(err, berrors.ErrIncompatibleValue) { // a row where a bucket should be
		err = &Damage{err}
	}
	return nil, errors.Join(fmt.Errorf("%s: %w", path, err), db.Close())
}

// examine checks a file. made means that there is none yet, or an empty one,
// as bbolt leaves it when it is cut off in its first steps.
func examine(path string) (made bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	if info.Size() == 0 {
		return true, nil
	}
	if err := check(f, info.Size()); err != nil {
		return false, &Damage{err}
	}
	return false, nil
}

// setAside renames a damaged file, and removes the oldest of those set aside
// before it. It returns the new name.
func setAside(path string, now time.Time) (string, error) {
	at := now.Unix()
	earlier, err := asides(path)
	if err != nil {
		return "", err
	}
	if len(earlier) > 0 { // in the same second, or before the clock was put back
		at = max(at, earlier[len(earlier)-1]+1)
	}
	aside := asideName(path, at)
	if err := os.Rename(path, aside); err != nil {
		return "", err
	}
	if err := durable.SyncFolder(filepath.Dir(path)); err != nil {
		return "", err
	}
	for _, old := range earlier[:max(len(earlier)-asideMost+1, 0)] {
		if err := os.Remove(asideName(path, old)); err != nil {
			return "", err
		}
	}
	return aside, nil
}

func asideName(path string, at int64) string { return path + asideMark + strconv.FormatInt(at, 10) }

// asides are the times of the files set aside, the oldest first.
func asides(path string) (times []int64, err error) {
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		at, ok := strings.CutPrefix(f.Name(), filepath.Base(path)+asideMark)
		if n, err := strconv.ParseInt(at, 10, 64); ok && err == nil {
			times = append(times, n)
		}
	}
	slices.Sort(times)
	return times, nil
}

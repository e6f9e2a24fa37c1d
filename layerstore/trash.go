package layerstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
)

// trash takes files of blobs whose rows are gone. In the committer's goroutine
// they only lose their names, which takes microseconds; freeing the space of a
// large file takes a disk much longer, and is done beside. What a kill leaves is
// a temporary file, which the next Open drops.
type trash struct {
	store *Store
	paths []string
	freed Freed // by what was removed in place
	errs  []error
}

func (s *Store) newTrash() *trash { return &trash{store: s} }

// take takes the files of blobs, and forgets their proofs.
func (t *trash) take(digests []digest.Digest) {
	for _, d := range digests {
		t.store.proofs.forget(d)
		from, to := t.store.layout.blob(d), t.store.trashPath()
		err := os.Rename(from, to)
		switch {
		case err == nil:
			t.paths = append(t.paths, to)
		case !errors.Is(err, fs.ErrNotExist): // no room for a name, say
			t.remove(from)
		}
	}
}

// trashPath is a name that no other file has: those of earlier processes are gone.
func (s *Store) trashPath() string {
	return filepath.Join(s.layout.ingestFolder(), fmt.Sprintf("gone-%d%s", s.counts.trashed.Add(1), temporary))
}

func (t *trash) remove(path string) {
	info, err := os.Lstat(path)
	if err == nil {
		err = os.Remove(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		t.errs = append(t.errs, err)
		return
	}
	t.freed.Blobs++
	t.freed.Bytes += info.Size()
}

// empty frees the space. It tells what went, and what could not.
func (t *trash) empty() (Freed, error) {
	for _, path := range t.paths {
		t.remove(path)
	}
	t.paths = nil
	return t.freed, errors.Join(t.errs...)
}

package layerstore

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

const (
	// temporary ends the names of files that no process goes on with.
	temporary = ".tmp"
	// A partial file that nobody has gone on with for this long is dropped.
	partialAge = 7 * 24 * time.Hour
)

// reconcile makes files and rows agree after whatever ended the last process.
func (s *Store) reconcile() error {
	if err := s.dropLeftovers(); err != nil {
		return err
	}
	found, err := s.blobFiles()
	if err != nil {
		return err
	}
	var lost []digest.Digest
	err = s.index.each(func(d digest.Digest, r row) error {
		if size, ok := found[d]; ok && size == r.Size {
			s.count(1, size)
			delete(found, d)
		} else {
			lost = append(lost, d)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.loseMissing(lost); err != nil {
		return err
	}
	return s.adopt(found)
}

// blobFiles lists what lies under blobs/ by digest, with sizes in bytes.
func (s *Store) blobFiles() (map[digest.Digest]int64, error) {
	found := map[digest.Digest]int64{}
	for _, a := range algorithms {
		files, err := os.ReadDir(filepath.Join(s.layout.root, specs.ImageBlobsDir, a.String()))
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			d := digest.NewDigestFromEncoded(a, f.Name())
			info, err := f.Info()
			if err != nil {
				return nil, err
			}
			if d.Validate() == nil && info.Mode().IsRegular() {
				found[d] = info.Size()
			}
		}
	}
	return found, nil
}

// dropLeftovers removes temporary files, partial files that cannot be gone on
// with or are too old, and journals without a file.
func (s *Store) dropLeftovers() error {
	for _, folder := range []string{s.layout.root, filepath.Join(s.layout.root, ingestName)} {
		files, err := os.ReadDir(folder)
		if err != nil {
			return err
		}
		for _, f := range files {
			if !s.leftover(folder, f) {
				continue
			}
			err := os.Remove(filepath.Join(folder, f.Name()))
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EROFS) {
				return err // of a file system that can be written: otherwise they stay for the next Open
			}
		}
	}
	return nil
}

func (s *Store) leftover(folder string, f fs.DirEntry) bool {
	path := filepath.Join(folder, f.Name())
	switch {
	case strings.HasSuffix(path, temporary):
		return true
	case strings.HasSuffix(path, ".part"), strings.HasSuffix(path, ".journal"):
		return s.abandoned(strings.TrimSuffix(path, filepath.Ext(path)))
	case strings.HasPrefix(f.Name(), ingestPrefix):
		return s.ingestLeftover(path)
	}
	return false
}

// abandoned reports whether a partial file, given without its ending, and its
// journal are of no use: they go together.
func (s *Store) abandoned(path string) bool {
	info, err := os.Lstat(path + ".part")
	if err != nil || s.now().Sub(info.ModTime()) > partialAge {
		return true
	}
	_, err = readJournal(path + ".journal")
	return err != nil
}

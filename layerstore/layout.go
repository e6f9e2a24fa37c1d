package layerstore

import (
	_ "crypto/sha256" // go-digest knows only the algorithms that are linked in
	_ "crypto/sha512"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/layerstore/durable"
)

const (
	lockName   = "imagecache.lock"
	indexName  = "layerstore.db"
	ingestName = "ingest"
	// Folders are the owner's alone: layers hold private images.
	folderMode = 0o700
	fileMode   = 0o600
)

// layout knows where everything is below the root.
type layout struct{ root string }

func (l layout) blob(d digest.Digest) string {
	return filepath.Join(l.root, specs.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

func (l layout) partial(d digest.Digest) string {
	return filepath.Join(l.root, ingestName, d.Algorithm().String()+"-"+d.Encoded()+".part")
}

func (l layout) journal(d digest.Digest) string {
	return filepath.Join(l.root, ingestName, d.Algorithm().String()+"-"+d.Encoded()+".journal")
}

// algorithms are the ones a store takes: those that image-spec registers.
var algorithms = []digest.Algorithm{digest.SHA256, digest.SHA512}

// claim makes the root ours and holds it until the file is closed. An
// existing folder that has content and no lock file of ours is left alone.
func (l layout) claim() (*os.File, error) {
	if err := makeFolders(l.root); err != nil {
		return nil, err
	}
	if err := l.refuseForeign(); err != nil {
		return nil, err
	}
	lock, err := l.openLock()
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", l.root, ErrLocked)
		}
		return nil, fmt.Errorf("lock %s: %w", l.root, err)
	}
	return lock, nil
}

// openLock opens the lock file, or makes it. On a read-only file system the one
// that is there will do, for a lock writes nothing; where there is none the error
// is EROFS.
func (l layout) openLock() (*os.File, error) {
	path := filepath.Join(l.root, lockName)
	lock, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, fileMode)
	if !errors.Is(err, unix.EROFS) {
		return lock, err
	}
	if lock, there := os.Open(path); there == nil {
		return lock, nil
	}
	return nil, err
}

func (l layout) refuseForeign() error {
	if _, err := os.Lstat(filepath.Join(l.root, lockName)); err == nil {
		return nil
	}
	content, err := os.ReadDir(l.root)
	if err != nil {
		return err
	}
	for _, c := range content {
		if c.Name() != "lost+found" { // a fresh file system
			return fmt.Errorf("%s holds %s: %w", l.root, c.Name(), ErrForeign)
		}
	}
	return nil
}

// build makes what an image layout and a store need and does not exist yet.
func (l layout) build() error {
	for _, a := range algorithms {
		if err := makeFolders(filepath.Join(l.root, specs.ImageBlobsDir, a.String())); err != nil {
			return err
		}
	}
	if err := makeFolders(filepath.Join(l.root, ingestName)); err != nil {
		return err
	}
	for name, content := range map[string]string{
		specs.ImageLayoutFile: `{"imageLayoutVersion":"` + specs.ImageLayoutVersion + `"}`,
		specs.ImageIndexFile:  `{"schemaVersion":2,"mediaType":"` + specs.MediaTypeImageIndex + `","manifests":[]}`,
	} {
		path := filepath.Join(l.root, name)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			if err := writeDurably(path, []byte(content)); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
	}
	return nil
}

// makeFolders is MkdirAll whose folders survive a power cut: each new name is
// synced in its parent.
func makeFolders(path string) error {
	if info, err := os.Stat(path); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("%s is not a folder", path)
		}
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(path)
	if err := makeFolders(parent); err != nil {
		return err
	}
	if err := os.Mkdir(path, folderMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return durable.SyncFolder(parent)
}

// writeDurably replaces a small file.
func writeDurably(path string, content []byte) error {
	return writeDurablyBy(path, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

// writeDurablyBy replaces a file: written beside its place, synced, renamed, and
// the folder synced.
func writeDurablyBy(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return durable.SyncFolder(filepath.Dir(path))
}

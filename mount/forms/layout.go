package forms

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	indexName    = "forms.db"
	layersName   = "layers"
	erofsName    = "erofs"
	chainsName   = "chains"
	makingName   = "making"
	replacedName = "replaced"
	droppedName  = "dropped"
	rowsName     = "rows"
	// Folders are the owner's alone: layers hold private images, and programs
	// with rights that nobody on this machine should come by.
	folderMode = 0o700
	fileMode   = 0o600
)

// layout knows where everything is below the root.
type layout struct{ root string }

func (l layout) layers() string   { return filepath.Join(l.root, layersName) }
func (l layout) dropped() string  { return filepath.Join(l.root, droppedName) }
func (l layout) replaced() string { return filepath.Join(l.root, replacedName) }
func (l layout) making() string   { return filepath.Join(l.root, makingName) }
func (l layout) rows() string     { return filepath.Join(l.root, rowsName) }

// probe is the folder in which EROFS is tried out.
func (l layout) probe() string { return filepath.Join(l.root, "probe") }

// lower is the folder that overlay gets. Its name is short, and all have one
// parent: the options of a mount have 4 KiB.
func (l layout) lower(id uint64) string { return filepath.Join(l.layers(), lowerName(id)) }

func (l layout) card(id uint64) string { return filepath.Join(l.rows(), lowerName(id)+".json") }

// image is the EROFS file of a form. What containerd's layer_content_caches
// read, by diff ID, holds no file that is right on top of certain layers only.
func (l layout) image(r row) string {
	algorithm, hex := split(r.Key)
	folder := filepath.Join(l.root, erofsName)
	if r.Chained {
		folder = filepath.Join(folder, chainsName)
	}
	return filepath.Join(folder, algorithm, hex[:2], hex+".erofs")
}

func lowerName(id uint64) string { return "f" + strconv.FormatUint(id, 10) }

// numberOf reads a name that lowerName made. Snapshots have other names in the
// same folder.
func numberOf(name string) (uint64, bool) {
	digits, ok := strings.CutPrefix(name, "f")
	id, err := strconv.ParseUint(digits, 10, 64)
	return id, ok && err == nil && lowerName(id) == name
}

// build makes the folders.
func (l layout) build() error {
	for _, name := range []string{layersName, erofsName, makingName, replacedName, droppedName, rowsName} {
		if err := makeFolders(filepath.Join(l.root, name)); err != nil {
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
			return &fs.PathError{Op: "mkdir", Path: path, Err: errors.New("something that is no folder is in the way")}
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
	return syncFile(parent)
}

// syncFile syncs a file or a folder.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// names lists a folder; nothing, when it cannot be read.
func names(folder string) []string {
	d, err := os.Open(folder)
	if err != nil {
		return nil
	}
	defer d.Close()
	found, _ := d.Readdirnames(-1) // what was read before an error counts
	return found
}

package forms

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/imagecache/imagecache/mount/erofs"
)

// reconcile removes, beside all traffic, what the last process left without a
// row, and unmounts what nobody holds. What somebody holds stays, row or not:
// containers may run on it.
func (f *Forms) reconcile(orphans []string, held []uint64) {
	for _, name := range orphans {
		id, _ := numberOf(name)
		if _, isHeld := slices.BinarySearch(held, id); isHeld || f.ctx.Err() != nil {
			continue
		}
		f.removeOrphan(name)
	}
	f.unmountStale()
	f.removeStrayImages()
	f.removeStrayCards()
}

func (f *Forms) removeOrphan(name string) {
	path := filepath.Join(f.at.layers(), name)
	if err := erofs.Unmount(path); err != nil {
		f.log.Warn("left-over of a form not unmounted", "path", path, "error", err)
		return
	}
	f.doom(f.moveAway(path)...)
}

// unmountStale unmounts EROFS forms that were held when the last process ended,
// and are not any more.
func (f *Forms) unmountStale() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.forms {
		if m.row.Kind == KindEROFS && len(m.users) == 0 {
			f.unlend = append(f.unlend, m)
		}
	}
	f.tidying.raise()
}

// removeStrayImages removes EROFS files that no row knows.
func (f *Forms) removeStrayImages() {
	root := filepath.Join(f.at.root, erofsName)
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if f.ctx.Err() != nil {
			return filepath.SkipAll
		}
		if err == nil && !d.IsDir() && strings.HasSuffix(path, ".erofs") {
			f.removeStrayImage(path)
		}
		return nil // a folder that cannot be read is left as it is
	})
}

// removeStrayImage looks at the tables and renames under one lock: a making that
// is about to put a file in this place has its row afterwards, or none.
func (f *Forms) removeStrayImage(path string) {
	k := imageKey(path)
	f.mu.Lock()
	known := f.keys[k] != nil || f.makings[k] != nil || f.going[k] != nil
	if !known {
		f.going[k] = make(chan struct{})
	}
	f.mu.Unlock()
	if known {
		return
	}
	f.doom(f.moveAway(path)...)
	f.mu.Lock()
	close(f.going[k])
	delete(f.going, k)
	f.mu.Unlock()
}

// imageKey reads the key of an EROFS file from its path: …/<algorithm>/<xx>/<hex>.erofs.
func imageKey(path string) key {
	algorithm := filepath.Base(filepath.Dir(filepath.Dir(path)))
	return key(algorithm + ":" + strings.TrimSuffix(filepath.Base(path), ".erofs"))
}

func (f *Forms) removeStrayCards() {
	for _, name := range names(f.at.rows()) {
		id, ok := numberOf(strings.TrimSuffix(name, ".json"))
		f.mu.Lock()
		stray := !ok || f.forms[id] == nil && id < f.first
		f.mu.Unlock()
		if stray {
			_ = os.Remove(filepath.Join(f.at.rows(), name)) // the next start tries again
		}
	}
}

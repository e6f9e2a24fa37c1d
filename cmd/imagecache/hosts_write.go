package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// steps lets a test stop between the steps of a change, as a kill would; nil goes through.
type steps func(name string) error

func (s steps) reach(name string) error {
	if s == nil {
		return nil
	}
	return s(name)
}

// install writes what should stand, in an order in which a kill at any point leaves either what stood before or what should stand, and
// always the original: save it, record, replace. desired must differ from what stands.
func (h *hostsFile) install(desired []byte, reach steps) error {
	if h.noFolder {
		return h.installFolder(desired, reach)
	}
	if h.phase == phaseInstalled {
		return h.reinstall(desired, reach)
	}
	if err := h.forget(); err != nil {
		return err
	}
	if err := reach.reach("forgotten"); err != nil {
		return err
	}
	if h.content != nil {
		if err := keepAs(h.path(), h.saving()); err != nil {
			return err
		}
	}
	if err := reach.reach("saved"); err != nil {
		return err
	}
	if err := h.writeRecord(hostsRecord{1, []string{checksum(desired)}, checksum(h.content)}); err != nil {
		return err
	}
	if err := reach.reach("recorded"); err != nil {
		return err
	}
	return h.replace(desired)
}

// reinstall replaces what we wrote by something else of ours; what stood before us stays saved.
func (h *hostsFile) reinstall(desired []byte, reach steps) error {
	both := hostsRecord{1, []string{checksum(h.content), checksum(desired)}, h.record.Original}
	if err := h.writeRecord(both); err != nil {
		return err
	}
	if err := reach.reach("recorded both"); err != nil {
		return err
	}
	if err := h.replace(desired); err != nil {
		return err
	}
	if err := reach.reach("replaced"); err != nil {
		return err
	}
	return h.writeRecord(hostsRecord{1, []string{checksum(desired)}, h.record.Original})
}

// replace writes the file with the mode and owner of the one that stands there.
func (h *hostsFile) replace(desired []byte) error {
	mode := fs.FileMode(0o644)
	if h.info != nil {
		mode = h.info.Mode().Perm()
	}
	return writeDurable(h.path(), desired, mode, h.info)
}

// keepAs gives a file a second name, so that it outlives its being replaced with its mode, owner and times; a copy where links are not known.
func keepAs(path, name string) error {
	err := os.Link(path, name)
	if err == nil {
		return syncFolder(filepath.Dir(path))
	}
	info, content, err := readPlain(path)
	if err != nil {
		return err
	}
	return writeDurable(name, content, info.Mode().Perm(), info)
}

// installFolder makes the folder, and those above it that are missing, with everything in it, under another name, and renames it: an empty
// folder of a registry would hide the default one from containerd.
func (h *hostsFile) installFolder(desired []byte, reach steps) error {
	top := h.folder
	for parent := filepath.Dir(top); !exists(parent) && parent != top; parent = filepath.Dir(top) {
		top = parent
	}
	temporary := filepath.Join(filepath.Dir(top), newTreeName)
	if err := os.RemoveAll(temporary); err != nil {
		return err
	}
	below, err := filepath.Rel(top, h.folder)
	if err != nil {
		return err
	}
	record, err := hostsRecord{1, []string{checksum(desired)}, ""}.encode()
	if err != nil {
		return err
	}
	folder := temporary
	for _, next := range append([]string{"."}, splitPath(below)...) {
		folder = filepath.Join(folder, next)
		if err := makeMarked(folder); err != nil {
			return err
		}
	}
	if err := writeDurable(filepath.Join(folder, h.name+suffixState), record, 0o644, nil); err != nil {
		return err
	}
	if err := writeDurable(filepath.Join(folder, h.name), desired, 0o644, nil); err != nil {
		return err
	}
	if err := reach.reach("tree made"); err != nil {
		return err
	}
	if err := os.Rename(temporary, top); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(top))
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// splitPath lists the parts of a relative path; "." has none.
func splitPath(path string) []string {
	if path == "." {
		return nil
	}
	dir, last := filepath.Split(path)
	return append(splitPath(filepath.Clean(dir)), last)
}

// makeMarked makes a folder that tells it is ours.
func makeMarked(folder string) error {
	if err := os.Mkdir(folder, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// containerd may run as another user, and a strict umask is meant for files, not for this.
	if err := os.Chmod(folder, 0o755); err != nil {
		return err
	}
	return writeDurable(filepath.Join(folder, madeName), nil, 0o644, nil)
}

// restore puts back what stood there before: the file itself under its old name, or nothing. Then what we left beside it goes, and the
// folders that we made.
func (h *hostsFile) restore(reach steps) error {
	if h.noFolder {
		return nil
	}
	if h.original() == nil && holdsOnly(h.folder, oursInFolder(h.name)...) {
		return removeMade(h.folder, h.name)
	}
	var err error
	switch {
	case h.phase != phaseInstalled && h.phase != phaseChanged:
		// The original stands already.
	case h.saved != nil:
		err = os.Rename(h.saving(), h.path())
	default:
		err = removeIfThere(h.path())
	}
	if err != nil {
		return err
	}
	if err := syncFolder(h.folder); err != nil {
		return err
	}
	if err := reach.reach("put back"); err != nil {
		return err
	}
	if err := h.forget(); err != nil {
		return err
	}
	if err := reach.reach("forgotten"); err != nil {
		return err
	}
	if h.name != hostsName { // the folder of hosts may be in the same folder that we made
		return nil
	}
	return removeIfThere(filepath.Join(h.folder, madeName))
}

// oursInFolder are the files in a folder that install made and nobody added to.
func oursInFolder(name string) []string {
	return []string{madeName, name, name + suffixState, name + suffixNew, name + suffixState + suffixNew}
}

// holdsOnly tells whether install made a folder and nothing but the named files is in it.
func holdsOnly(folder string, names ...string) bool {
	files, err := os.ReadDir(folder)
	if err != nil || !exists(filepath.Join(folder, madeName)) {
		return false
	}
	return !slices.ContainsFunc(files, func(f fs.DirEntry) bool { return !slices.Contains(names, f.Name()) })
}

// forget removes what we left beside the file. The original must stand.
func (h *hostsFile) forget() error {
	for _, path := range []string{h.stating(), h.saving(), h.path() + suffixNew, h.saving() + suffixNew, h.stating() + suffixNew} {
		if err := removeIfThere(path); err != nil {
			return err
		}
	}
	return syncFolder(h.folder)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// removeMade removes a folder that install made, and those above it as far as nothing else is in them. One that still holds something
// keeps its mark, while another uninstall may empty it.
func removeMade(folder, name string) error {
	names := oursInFolder(name)
	for ; holdsOnly(folder, names...); folder = filepath.Dir(folder) {
		// Renamed first: a kill must not leave an empty folder, which hides the default one.
		parent := filepath.Dir(folder)
		temporary := filepath.Join(parent, newTreeName)
		if err := os.RemoveAll(temporary); err != nil {
			return err
		}
		if err := os.Rename(folder, temporary); err != nil {
			return fmt.Errorf("removing %s: %w", folder, err)
		}
		if err := os.RemoveAll(temporary); err != nil {
			return err
		}
		if err := syncFolder(parent); err != nil {
			return err
		}
		names = []string{madeName}
	}
	return nil
}

// sweep removes what a kill left of folders that were being made or taken away.
func sweep(configPath string) error {
	for _, folder := range []string{configPath, filepath.Dir(configPath)} {
		if err := os.RemoveAll(filepath.Join(folder, newTreeName)); err != nil {
			return err
		}
	}
	if !holdsOnly(configPath, madeName) {
		return nil
	}
	return removeMade(configPath, hostsName)
}

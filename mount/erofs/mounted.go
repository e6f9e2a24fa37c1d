package erofs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// Mounted is one mount that stands.
type Mounted struct {
	Target string // where it is
	Source string // what it was told to mount: the file, or the loop device
	Type   string // of filesystem: "erofs", "overlay"
}

// Below lists what this process sees mounted at dir and below it, in the order in
// which it was mounted, whoever did it. It is not sorted by name, and one target may
// be there more than once.
func Below(dir string) ([]Mounted, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return nil, err
	}
	var found []Mounted
	for _, i := range infos {
		found = append(found, Mounted{Target: i.Mountpoint, Source: i.Source, Type: i.FSType})
	}
	return found, nil
}

// shows tells whether the mount shows what is in file, whose path has no symbolic
// links.
func (m Mounted) shows(file string) bool {
	if m.Type != "erofs" {
		return false
	}
	if !strings.HasPrefix(m.Source, "/dev/loop") {
		return m.Source == file
	}
	backing, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(m.Source), "loop", "backing_file"))
	return err == nil && strings.TrimSuffix(string(backing), "\n") == file
}

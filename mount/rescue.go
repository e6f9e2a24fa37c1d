package mount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
)

// rescue takes the folders of snapshots out of the sweeper's way where the
// database of rows is new: their rows went with the one before. No row names
// them, and yet they are no leftovers: containers may be running on them, and
// run on, as a mount follows its folders where they are moved to. It comes
// before the first row, so that a kill in between finds the database new again.
func (s *Snapshotter) rescue() error {
	err := s.read(context.Background(), func(ctx context.Context) error {
		_, err := storage.IDMap(ctx)
		return err
	})
	if !errdefs.IsNotFound(err) {
		return err
	}
	orphans, err := s.snapshotFolders()
	if err != nil || len(orphans) == 0 {
		return err
	}
	to := filepath.Join(s.folders.rescued(), strconv.FormatInt(time.Now().Unix(), 10))
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, name := range orphans {
		if err := os.Rename(filepath.Join(s.folders.layers(), name), filepath.Join(to, name)); err != nil {
			return fmt.Errorf("snapshots: %w", err)
		}
	}
	return nil
}

// snapshotFolders are the folders that snapshots write to, or wrote to.
func (s *Snapshotter) snapshotFolders() (names []string, err error) {
	listed, err := os.ReadDir(s.folders.layers())
	for _, dir := range listed {
		if strings.HasPrefix(dir.Name(), folderPrefix) {
			names = append(names, dir.Name())
		}
	}
	return names, err
}

// rescuedUser is the name by which forms are held whose snapshots were rescued.
const rescuedUser = "\x00rescued"

// rescuedForms are those that something is mounted from and no row tells of any
// more: they stay, until the next start at least.
func (s *Snapshotter) rescuedForms() (ids []uint64) {
	if missing(s.folders.rescued()) {
		return nil
	}
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("overlay"))
	if err != nil {
		s.log.Warn("cannot tell which layers containers run on whose snapshots were lost", "error", err)
	}
	for _, m := range mounts {
		for option := range strings.SplitSeq(m.VFSOptions, ",") {
			lowers, _ := strings.CutPrefix(option, "lowerdir=")
			for lower := range strings.SplitSeq(lowers, ":") {
				if id, ok := s.formAt(lower); ok {
					ids = append(ids, id)
				}
			}
		}
	}
	return ids
}

// formAt is the form that a lower of some mount is: one below layers, or, as
// containerd shortens many, a name alone, which may be of another store.
func (s *Snapshotter) formAt(lower string) (id uint64, ok bool) {
	folder, name := filepath.Split(lower)
	if folder != "" && filepath.Clean(folder) != s.folders.layers() || missing(filepath.Join(s.folders.layers(), name)) {
		return 0, false
	}
	digits, isForm := strings.CutPrefix(name, "f")
	id, err := strconv.ParseUint(digits, 10, 64)
	return id, isForm && err == nil
}

// tellRescued says at each start what was rescued: it is somebody's to look
// through and to delete, as only he knows which containers run on it.
func (s *Snapshotter) tellRescued() {
	kept, err := os.ReadDir(s.folders.rescued())
	if len(kept) == 0 {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("what was rescued could not be looked at", "error", err)
		}
		return
	}
	s.log.Error("snapshots were lost with their database, and what containers wrote was kept: running ones run on with it; "+
		"remove them and their images from containerd before they are pulled again, and delete the folder when nobody wants it any more",
		"folder", s.folders.rescued())
}

package mount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
)

// create makes an active snapshot or a view: the folder first, then the row that
// names it, so that a kill between the two leaves a folder that nobody names.
func (s *Snapshotter) create(ctx context.Context, kind snapshots.Kind, key, parent string, info snapshots.Info) ([]mount.Mount, error) {
	lowers, err := s.lowers(ctx, parent)
	if err != nil {
		return nil, fmt.Errorf("parent %s: %w", parent, err)
	}
	folder, err := s.newFolder(kind, lowers)
	if err != nil {
		return nil, err
	}
	if folder != "" {
		defer s.growing.done(folder)
	}
	err = s.update(ctx, func(ctx context.Context) error {
		own := map[string]string{}
		if folder != "" {
			own[labelFolder] = folder
		}
		_, err := storage.CreateSnapshot(ctx, kind, key, parent, with(snapshots.Info{Labels: info.Labels}, own)...)
		return err
	})
	if err != nil {
		if folder != "" {
			s.discard(folder)
		}
		return nil, err
	}
	return s.mounts(kind, folder, lowers), nil
}

// newFolder makes the folder that a snapshot is written to. A view of
// something needs none.
func (s *Snapshotter) newFolder(kind snapshots.Kind, lowers []string) (name string, err error) {
	if kind == snapshots.KindView && len(lowers) > 0 {
		return "", nil
	}
	if name, err = s.growing.make(s.folders.layers()); err != nil {
		return "", err
	}
	if err := fillFolder(filepath.Join(s.folders.layers(), name), lowers); err != nil {
		s.growing.done(name)
		s.discard(name)
		return "", fmt.Errorf("snapshots: %w", err)
	}
	return name, nil
}

// fillFolder makes the folders that overlayfs writes to. The upper one belongs to
// whom the topmost lower belongs to, as with containerd's own snapshotter:
// it is the root that a container sees.
func fillFolder(dir string, lowers []string) error {
	if err := makeFolder(filepath.Join(dir, "work"), 0o711); err != nil {
		return err
	}
	upper := filepath.Join(dir, "fs")
	if err := makeFolder(upper, 0o755); err != nil || len(lowers) == 0 {
		return err
	}
	info, err := os.Stat(lowers[0])
	if err != nil {
		return err
	}
	of := info.Sys().(*syscall.Stat_t)
	return os.Lchown(upper, int(of.Uid), int(of.Gid))
}

// makeFolder makes a folder of just this mode, whatever the umask.
func makeFolder(path string, mode os.FileMode) error {
	if err := os.Mkdir(path, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// mounts is what to mount for a snapshot.
func (s *Snapshotter) mounts(kind snapshots.Kind, folder string, lowers []string) []mount.Mount {
	return s.mountsIn(kind, s.folders.upper(folder), s.folders.work(folder), lowers)
}

// mountsIn is what to mount. A single folder is bound: overlayfs takes no less
// than two.
func (s *Snapshotter) mountsIn(kind snapshots.Kind, upper, work string, lowers []string) []mount.Mount {
	switch {
	case kind == snapshots.KindView && len(lowers) == 0:
		return bind(upper, "ro")
	case kind == snapshots.KindView && len(lowers) == 1:
		return bind(lowers[0], "ro")
	case len(lowers) == 0:
		return bind(upper, "rw")
	}
	var options []string
	if kind == snapshots.KindActive {
		options = append(options, "workdir="+work, "upperdir="+upper)
	}
	options = append(options, "lowerdir="+strings.Join(lowers, ":"))
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: append(options, s.overlay...)}}
}

func bind(source, access string) []mount.Mount {
	return []mount.Mount{{Type: "bind", Source: source, Options: []string{access, "rbind"}}}
}

func (f folders) upper(folder string) string { return filepath.Join(f.layers(), folder, "fs") }
func (f folders) work(folder string) string  { return filepath.Join(f.layers(), folder, "work") }

// growing are folders whose row is not written yet, so that they are not taken
// for those that a kill left. The zero value is ready.
type growing struct {
	mu    sync.Mutex // guards names
	names map[string]bool
}

// folderPrefix begins the names of the folders of ordinary snapshots: those of
// forms begin in another way.
const folderPrefix = "s"

// folderNames is how many names there are: 7 digits, because 127 of them must
// fit into the options of one mount.
const folderNames = 36 * 36 * 36 * 36 * 36 * 36 * 36

// make makes a folder of a new name, which grows from before it is there.
func (g *growing) make(in string) (name string, err error) {
	for {
		name = folderPrefix + strconv.FormatUint(rand.Uint64N(folderNames), 36)
		if !g.start(name) {
			continue
		}
		if err = os.Mkdir(filepath.Join(in, name), 0o700); err == nil {
			return name, nil
		}
		g.done(name)
		if !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("snapshots: %w", err)
		}
	}
}

// start reports whether the name was free.
func (g *growing) start(name string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.names[name] {
		return false
	}
	if g.names == nil {
		g.names = map[string]bool{}
	}
	g.names[name] = true
	return true
}

func (g *growing) done(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.names, name)
}

func (g *growing) has(name string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.names[name]
}

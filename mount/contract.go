package mount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	cfs "github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
)

// Stat tells of a snapshot.
func (s *Snapshotter) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	r, err := s.row(ctx, key)
	if err != nil {
		return snapshots.Info{}, err
	}
	return r.public(), nil
}

// Update changes labels.
func (s *Snapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	var updated row
	err := s.update(ctx, func(ctx context.Context) error {
		_, stored, _, err := storage.GetInfo(ctx, info.Name)
		if err != nil {
			return err
		}
		if info, err = (row{stored}).relabelled(info, fieldpaths); err != nil {
			return err
		}
		updated.Info, err = storage.UpdateInfo(ctx, info, fieldpaths...)
		return err
	})
	if err != nil {
		return snapshots.Info{}, err
	}
	return updated.public(), nil
}

// Walk calls fn for each snapshot that matches. No transaction is open
// meanwhile: fn may ask the snapshotter, and may take its time.
func (s *Snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	found, err := s.find(ctx, filters...)
	if err != nil {
		return err
	}
	for _, r := range found {
		if err := fn(ctx, r.public()); err != nil {
			return err
		}
	}
	return nil
}

// Usage tells what a snapshot takes without those below it: an active one what
// its folder does now, a committed one what it did when it was committed. Of one that is
// a form it is the form's, which snapshots may share.
func (s *Snapshotter) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	var usage snapshots.Usage
	var r row
	err := s.read(ctx, func(ctx context.Context) (err error) {
		_, r.Info, usage, err = storage.GetInfo(ctx, key)
		return err
	})
	if err != nil || r.Kind != snapshots.KindActive {
		return usage, err
	}
	return s.folderUsage(ctx, r)
}

func (s *Snapshotter) folderUsage(ctx context.Context, r row) (snapshots.Usage, error) {
	usage, err := cfs.DiskUsage(ctx, s.folders.upper(r.folder()))
	if errors.Is(err, fs.ErrNotExist) {
		return snapshots.Usage{}, lostError(r)
	}
	return snapshots.Usage(usage), err
}

// Mounts gives the mounts of an active snapshot or a view again. A layer that
// was lost is made again first, and forms that are files are mounted.
func (s *Snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	r, err := s.row(ctx, key)
	if err != nil {
		return nil, err
	}
	if r.Kind != snapshots.KindActive && r.Kind != snapshots.KindView {
		return nil, fmt.Errorf("snapshot %s is committed and has no mounts: prepare one on top of it: %w", key, errdefs.ErrFailedPrecondition)
	}
	lowers, err := s.lowers(ctx, r.Parent)
	if err != nil {
		return nil, err
	}
	if r.folder() != "" && missing(s.folders.upper(r.folder())) {
		return nil, lostError(r)
	}
	return s.mounts(r.Kind, r.folder(), lowers), nil
}

// lostError says that a disk lost what a snapshot held, and nobody else has it.
func lostError(r row) error {
	return fmt.Errorf("what snapshot %s held is not on the disk any more: remove what was made of it, and make it again: %w", r.Name, errdefs.ErrFailedPrecondition)
}

func missing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// Prepare makes an active snapshot. With the label containerd.io/snapshot.ref it
// first tries to give a committed snapshot of the layer that the label names:
// ErrAlreadyExists says that it did.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	info, err := asked(opts)
	if err != nil {
		return nil, err
	}
	if target := info.Labels[snapshots.LabelSnapshotRef]; target != "" && s.take(ctx, target, parent, info) {
		return nil, fmt.Errorf("layer %s is here: %w", target, errdefs.ErrAlreadyExists)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.create(ctx, snapshots.KindActive, key, parent, info)
}

// View makes a snapshot that nobody writes to.
func (s *Snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	info, err := asked(opts)
	if err != nil {
		return nil, err
	}
	return s.create(ctx, snapshots.KindView, key, parent, info)
}

// Commit makes an active snapshot one that others can have as a parent.
func (s *Snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	info, err := asked(opts)
	if err != nil {
		return err
	}
	r, err := s.row(ctx, key)
	if err != nil {
		return err
	}
	var usage snapshots.Usage
	if r.Kind == snapshots.KindActive { // of another kind storage refuses it
		if usage, err = s.folderUsage(ctx, r); err != nil {
			return err
		}
	}
	return s.update(ctx, func(ctx context.Context) error {
		_, stored, _, err := storage.GetInfo(ctx, key)
		if err != nil {
			return err
		}
		if (row{stored}).folder() != r.folder() {
			return fmt.Errorf("snapshot %s was made anew meanwhile: %w", key, errdefs.ErrUnavailable)
		}
		_, err = storage.CommitActive(ctx, key, name, usage, with(info, map[string]string{labelFolder: r.folder()})...)
		return err
	})
}

// Remove takes a snapshot away. Its folder goes later, and its form when
// nothing uses it and space is wanted: containerd holds a lock meanwhile.
func (s *Snapshotter) Remove(ctx context.Context, key string) error {
	removed, err := s.removeRow(ctx, key)
	if err != nil {
		return err
	}
	if removed.folder() != "" {
		s.discard(removed.folder())
	}
	return nil
}

func (s *Snapshotter) removeRow(ctx context.Context, key string) (removed row, err error) {
	s.taking.Lock()
	defer s.taking.Unlock()
	err = s.update(ctx, func(ctx context.Context) (err error) {
		if _, removed.Info, _, err = storage.GetInfo(ctx, key); err != nil {
			return fmt.Errorf("remove snapshot %s: %w", key, err)
		}
		if _, _, err = storage.Remove(ctx, key); err != nil {
			return fmt.Errorf("remove snapshot %s: %w", key, err)
		}
		return nil
	})
	if _, isForm := removed.form(); err == nil && isForm {
		s.forms.Release(key)
	}
	return removed, err
}

package mount

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/mount/forms"
)

// lowers are the folders of a committed snapshot and all below it, the topmost
// first, each ready to be mounted; "" has none.
func (s *Snapshotter) lowers(ctx context.Context, name string) ([]string, error) {
	rows, err := s.lineage(ctx, name)
	if err != nil {
		return nil, err
	}
	dirs := make([]string, len(rows))
	for i, r := range rows {
		if dirs[i], err = s.lower(ctx, r); err != nil {
			return nil, err
		}
	}
	return dirs, nil
}

// lower is the folder that one committed snapshot is read from. One that the disk
// lost is made again, as a form, and the row stands for that from now on.
func (s *Snapshotter) lower(ctx context.Context, r row) (string, error) {
	id, isForm := r.form()
	if !isForm && r.folder() != "" && !missing(s.folders.upper(r.folder())) {
		return s.folders.upper(r.folder()), nil
	}
	chain := chainOf(r)
	if !isForm && chain == "" {
		return "", lostError(r)
	}
	dir, form, err := s.formLower(ctx, id, chain, r.Name)
	if err == nil && form.ID != 0 && form.ID != id {
		err = s.stand(ctx, r.Name, form)
	}
	return dir, err
}

// formLower is the folder of a form; one that the disk lost is made again from
// the chain ID, which takes as long as fetching and unpacking do. form is the one
// that was made, its ID 0 when none was.
func (s *Snapshotter) formLower(ctx context.Context, id uint64, chain digest.Digest, user string) (dir string, form forms.Form, err error) {
	ctx, cancel := s.waiting(ctx)
	defer cancel()
	if id != 0 {
		if dir, err = s.forms.Lower(ctx, id); err == nil || ctx.Err() != nil {
			return dir, form, err
		}
		s.log.Warn("a layer in use cannot be mounted: it is made again", "user", user, "form", id, "error", err)
	}
	dir, form, err = s.mend(ctx, chain, user)
	if err != nil {
		s.counts.lost.Add(1)
		return "", form, fmt.Errorf("layer %s is not on the disk any more, and could not be made again: %w: %w", chain, err, errdefs.ErrUnavailable)
	}
	s.counts.mended.Add(1)
	s.log.Warn("a layer that was lost was made again", "user", user, "chain", chain)
	return dir, form, nil
}

func (s *Snapshotter) mend(ctx context.Context, chain digest.Digest, user string) (string, forms.Form, error) {
	layers, err := s.images.Chain(ctx, chain)
	if err != nil {
		return "", forms.Form{}, err
	}
	form, err := s.forms.Get(ctx, layers, user)
	if err != nil {
		return "", form, err
	}
	dir, err := s.forms.Lower(ctx, form.ID)
	return dir, form, err
}

// stand has an existing row stand for a form.
func (s *Snapshotter) stand(ctx context.Context, name string, form forms.Form) error {
	s.taking.Lock()
	defer s.taking.Unlock()
	err := s.forms.Hold(form.ID, name)
	if err == nil {
		err = s.update(ctx, func(ctx context.Context) error {
			_, info, _, err := storage.GetInfo(ctx, name)
			if err != nil {
				return err
			}
			info.Labels = maps.Clone(info.Labels)
			delete(info.Labels, labelFolder)
			info.Labels[labelForm] = strconv.FormatUint(form.ID, 10)
			_, err = storage.UpdateInfo(ctx, info)
			return err
		})
	}
	s.releaseWithoutRow(ctx, name)
	return err
}

// releaseWithoutRow ends a hold on forms whose row is not there, for whatever
// reason. taking is held.
func (s *Snapshotter) releaseWithoutRow(ctx context.Context, name string) {
	if _, err := s.row(context.WithoutCancel(ctx), name); errors.Is(err, errdefs.ErrNotFound) {
		s.forms.Release(name)
	}
}

// chainOf is the chain ID that a committed snapshot stands for, or "": what its label
// says, else the end of its name, as containerd makes one.
func chainOf(r row) digest.Digest {
	for _, text := range []string{r.Labels[snapshots.LabelSnapshotRef], lastElement(r.Name)} {
		if d, err := digest.Parse(text); err == nil {
			return d
		}
	}
	return ""
}

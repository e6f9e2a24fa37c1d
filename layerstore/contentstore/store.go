package contentstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/filters"
	known "github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/imagecache/imagecache/layerstore"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Options of an adapter. The zero value is the default.
type Options struct {
	// Path of the file of labels. Default: contentstore.db in the store's root.
	Path string
	// Now is the clock. Default time.Now. It should be the store's.
	Now func() time.Time
	Log *slog.Logger // default: nothing is logged
}

// Store is a layerstore as containerd sees it. All methods may be called in
// parallel. Errors are those of the errdefs package, as [content.Store] asks
// for; those of the layerstore can be found in them.
type Store struct {
	blobs  *layerstore.Store
	labels *labels
	now    func() time.Time
}

var _ content.Store = (*Store)(nil)

// New opens the file of labels and forgets those of blobs that are gone. The
// layerstore stays its opener's, to be closed after the adapter. Errors:
// layerstore's ErrNewer and ErrLocked, and those of the file system.
func New(store *layerstore.Store, o Options) (*Store, error) {
	if o.Path == "" {
		o.Path = filepath.Join(store.Root(), "contentstore.db")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l, err := openLabels(o.Path, o.Log)
	if err != nil {
		return nil, err
	}
	s := &Store{blobs: store, labels: l, now: o.Now}
	if err := s.sweep(); err != nil {
		l.db.Close()
		return nil, err
	}
	return s, nil
}

// sweep drops the rows of blobs that are gone.
func (s *Store) sweep() error {
	rows, err := s.labels.all()
	if err != nil {
		return err
	}
	var gone []digest.Digest
	for _, d := range rows {
		if _, err := s.blobs.Stat(d); errors.Is(err, layerstore.ErrNotFound) {
			gone = append(gone, d)
		}
	}
	return s.labels.drop(gone...)
}

// Close closes the file of labels. The layerstore stays open, and so do
// writers, which can no longer keep labels.
func (s *Store) Close() error { return s.labels.db.Close() }

// Info tells of a sealed blob. It was created when it was sealed, and updated
// then or when its labels were changed.
func (s *Store) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	info, err := s.stat(d)
	if err != nil {
		return content.Info{}, err
	}
	return s.describe(info)
}

func (s *Store) stat(d digest.Digest) (layerstore.Info, error) {
	if err := d.Validate(); err != nil {
		return layerstore.Info{}, fmt.Errorf("digest %q: %w: %w", d, errdefs.ErrInvalidArgument, err)
	}
	info, err := s.blobs.Stat(d)
	return info, translate(err)
}

func (s *Store) describe(info layerstore.Info) (content.Info, error) {
	r, err := s.labels.get(info.Digest)
	if err != nil {
		return content.Info{}, err
	}
	return join(info, r), nil
}

func join(info layerstore.Info, r row) content.Info {
	updated := info.Sealed
	if r.Updated.After(updated) {
		updated = r.Updated
	}
	return content.Info{Digest: info.Digest, Size: info.Size, CreatedAt: info.Sealed, UpdatedAt: updated, Labels: r.Labels}
}

// Update replaces the labels of a blob, or those alone that fieldpaths name
// ("labels.key"; "labels" is all). A label without a value is removed.
func (s *Store) Update(_ context.Context, info content.Info, fieldpaths ...string) (content.Info, error) {
	found, err := s.stat(info.Digest)
	if err != nil {
		return content.Info{}, err
	}
	change, err := changes(info.Labels, fieldpaths)
	if err != nil {
		return content.Info{}, fmt.Errorf("update %s: %w", info.Digest, err)
	}
	r, err := s.labels.change(info.Digest, s.now(), change)
	if err != nil {
		return content.Info{}, err
	}
	return join(found, r), nil
}

// changes is what an update makes of the labels that were there.
func changes(wanted map[string]string, fieldpaths []string) (func(map[string]string) map[string]string, error) {
	for k, v := range wanted {
		if err := known.Validate(k, v); err != nil {
			return nil, err
		}
	}
	all := len(fieldpaths) == 0
	var keys []string
	for _, path := range fieldpaths {
		key, one := strings.CutPrefix(path, "labels.")
		if !one && path != "labels" {
			return nil, fmt.Errorf("field %q cannot be changed: %w", path, errdefs.ErrInvalidArgument)
		}
		all = all || !one
		keys = append(keys, key)
	}
	return func(were map[string]string) map[string]string {
		if all {
			return withValue(wanted)
		}
		if were == nil {
			were = map[string]string{}
		}
		for _, key := range keys {
			were[key] = wanted[key]
		}
		return withValue(were)
	}, nil
}

// withValue copies what has a value.
func withValue(labels map[string]string) map[string]string {
	kept := map[string]string{}
	for k, v := range labels {
		if v != "" {
			kept[k] = v
		}
	}
	return kept
}

// Walk calls f with every sealed blob that one of the filters matches, in the
// order of digests. It goes by a list made at its start, so that f may delete.
func (s *Store) Walk(ctx context.Context, f content.WalkFunc, fs ...string) error {
	filter, err := filters.ParseAll(fs...)
	if err != nil {
		return err
	}
	var found []layerstore.Info
	if err := s.blobs.Each(func(info layerstore.Info) error { found = append(found, info); return nil }); err != nil {
		return translate(err)
	}
	for _, blob := range found {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		info, err := s.describe(blob)
		if err != nil {
			return err
		}
		if !filter.Match(content.AdaptInfo(info)) {
			continue
		}
		if err := f(info); err != nil {
			return err
		}
	}
	return nil
}

// Delete deletes one blob. See the package comment for what it promises.
func (s *Store) Delete(_ context.Context, d digest.Digest) error {
	if _, err := s.stat(d); err != nil {
		return err
	}
	if err := s.blobs.Delete(d); err != nil {
		return translate(err)
	}
	return s.labels.drop(d)
}

// ReaderAt opens a sealed blob, also one that is deleted while it is read. ctx
// governs the opening.
func (s *Store) ReaderAt(ctx context.Context, desc specs.Descriptor) (content.ReaderAt, error) {
	if _, err := s.stat(desc.Digest); err != nil {
		return nil, err
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	b, err := s.blobs.Fetch(context.WithoutCancel(ctx), specs.Descriptor{Digest: desc.Digest}, nil)
	if err != nil {
		return nil, translate(err)
	}
	if b.Outcome() != layerstore.Hit { // evicted, and in flight again
		b.Close()
		return nil, fmt.Errorf("%s is on its way: %w", desc.Digest, errdefs.ErrNotFound)
	}
	return b, nil
}

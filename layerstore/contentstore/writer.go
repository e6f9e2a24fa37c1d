package contentstore

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/filters"
	known "github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/imagecache/imagecache/layerstore"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Writer opens the ingest of a ref, or goes on with it, also in another process
// than the one that began it. Errors: errdefs.ErrUnavailable while another
// writer of the ref is open, ErrAlreadyExists when the digest of the descriptor
// is here, ErrInvalidArgument.
func (s *Store) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	if o.Ref == "" {
		return nil, fmt.Errorf("a writer needs a ref: %w", errdefs.ErrInvalidArgument)
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	ingest, err := s.blobs.Ingest(o.Ref, o.Desc)
	if err != nil {
		return nil, translate(err)
	}
	return &writer{store: s, ingest: ingest, mediaType: o.Desc.MediaType}, nil
}

// writer is an open ingest as containerd sees it.
type writer struct {
	store     *Store
	ingest    *layerstore.Ingest
	mediaType string
}

func (w *writer) Write(p []byte) (int, error) {
	n, err := w.ingest.Write(p)
	return n, translate(err)
}

func (w *writer) Close() error { return translate(w.ingest.Close()) }

// Digest is that of what was written so far.
func (w *writer) Digest() digest.Digest { return w.ingest.Digest() }

func (w *writer) Status() (content.Status, error) { return status(w.ingest.Info()), nil }

// Truncate takes any size up to the present one.
func (w *writer) Truncate(size int64) error {
	if err := w.ingest.Truncate(size); err != nil {
		return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	return nil
}

// Commit seals the blob durably and then sets its labels: after a kill between
// the two it is here without them. What was written stays when it fails, but
// for errdefs.ErrAlreadyExists.
func (w *writer) Commit(ctx context.Context, size int64, expected digest.Digest, opts ...content.Opt) error {
	base, err := options(opts)
	if err != nil {
		return closed(w, err)
	}
	d, err := w.ingest.Commit(ctx, specs.Descriptor{Digest: expected, Size: size, MediaType: w.mediaType})
	if err != nil {
		return translate(err)
	}
	if len(base.Labels) == 0 {
		err = w.store.labels.drop(d) // those of an earlier life
	} else {
		_, err = w.store.labels.change(d, w.store.now(), func(map[string]string) map[string]string { return withValue(base.Labels) })
	}
	if err != nil {
		return fmt.Errorf("%s is here, its labels are not: %w", d, err)
	}
	return nil
}

func options(opts []content.Opt) (base content.Info, err error) {
	for _, opt := range opts {
		if err := opt(&base); err != nil {
			return base, err
		}
	}
	for k, v := range base.Labels {
		if err := known.Validate(k, v); err != nil {
			return base, err
		}
	}
	return base, nil
}

// closed closes a writer whose commit failed with err: commit always does.
func closed(w *writer, err error) error {
	if cerr := w.Close(); cerr != nil {
		return fmt.Errorf("%w; %w", err, cerr)
	}
	return err
}

func status(i layerstore.IngestInfo) content.Status {
	return content.Status{
		Ref: i.Name, Offset: i.Offset, Total: i.Total, Expected: i.Expected, StartedAt: i.Started, UpdatedAt: i.Updated,
	}
}

// Status tells how far the ingest of a ref has come, or errdefs.ErrNotFound.
func (s *Store) Status(_ context.Context, ref string) (content.Status, error) {
	info, err := s.blobs.StatIngest(ref)
	if err != nil {
		return content.Status{}, translate(err)
	}
	return status(info), nil
}

// ListStatuses tells of all ingests, open or left, whose ref one of the filters
// matches.
func (s *Store) ListStatuses(_ context.Context, fs ...string) ([]content.Status, error) {
	filter, err := filters.ParseAll(fs...)
	if err != nil {
		return nil, err
	}
	infos, err := s.blobs.Ingests()
	if err != nil {
		return nil, translate(err)
	}
	var found []content.Status
	for _, info := range infos {
		if filter.Match(byRef(info.Name)) {
			found = append(found, status(info))
		}
	}
	return found, nil
}

// byRef lets filters see the one field that a status has for them.
func byRef(ref string) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		return ref, len(path) == 1 && path[0] == "ref"
	})
}

// Abort drops what was written under a ref; its writer, if one is open, gets
// errdefs.ErrFailedPrecondition from then on.
func (s *Store) Abort(_ context.Context, ref string) error {
	return translate(s.blobs.AbortIngest(ref))
}

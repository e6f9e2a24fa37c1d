package registry

import (
	"context"
	"errors"
	"strings"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/layerstore"
)

// What is deleted through us goes upstream first, with the credential of who asks,
// and is forgotten here when upstream has done it. What is pinned is refused, and
// upstream not asked: docs/decisions/0028.

// deleteTagThrough deletes a tag upstream.
func (r *Registry) deleteTagThrough(ctx context.Context, ref Reference) error {
	if _, pinned := r.pinned(ref); pinned {
		return pinnedError(ref.String())
	}
	v, err := r.deletesAt(ctx, ref.Repository)
	if err != nil {
		return err
	}
	if err := v.upstream.deleteManifest(ctx, ref.Path, ref.Tag); err != nil {
		return r.pushed(ctx, ref.Repository, err)
	}
	defer nudge(r.listed)
	return r.untag([]string{ref.String()})
}

// deleteManifestThrough deletes a manifest upstream, and here with its tags.
func (r *Registry) deleteManifestThrough(ctx context.Context, in Repository, d digest.Digest) error {
	if err := r.unpinned(in, d); err != nil {
		return err
	}
	v, err := r.deletesAt(ctx, in)
	if err != nil {
		return err
	}
	if err := v.upstream.deleteManifest(ctx, in.Path, d.String()); err != nil {
		return r.pushed(ctx, in, err)
	}
	r.referrersKnown.Purge() // it may have been one
	if err := r.dropHold(in, d); err != nil {
		return err
	}
	_, err = r.Remove(ctx, Reference{Repository: in, Digest: d})
	if e := (*Error)(nil); errors.As(err, &e) && e.Code == CodeManifestUnknown {
		return nil // it was not cached
	}
	return err
}

// deleteBlobThrough deletes a blob upstream. Its bytes stay here for as long as
// another image that is cached needs them.
func (r *Registry) deleteBlobThrough(ctx context.Context, in Repository, d digest.Digest) error {
	if err := r.unpinned(in, d); err != nil {
		return err
	}
	v, err := r.deletesAt(ctx, in)
	if err != nil {
		return err
	}
	if err := v.upstream.deleteBlob(ctx, in.Path, d); err != nil {
		return r.pushed(ctx, in, err)
	}
	if err := r.dropHold(in, d); err != nil {
		return err
	}
	err = r.store.Delete(d)
	if errors.Is(err, layerstore.ErrNotFound) || errors.Is(err, layerstore.ErrNeeded) {
		return nil
	}
	return err
}

// deletesAt is the upstream at which who asks wants something deleted.
func (r *Registry) deletesAt(ctx context.Context, in Repository) (*view, error) {
	if !r.Through(in.Registry) {
		return nil, notHome(in)
	}
	return r.destination(ctx, in)
}

// dropHold forgets that upstream has something in a repository.
func (r *Registry) dropHold(in Repository, d digest.Digest) error {
	r.shown.Remove(string(holdKey(in, d)))
	return r.state.db.Batch(func(tx *bolt.Tx) error { return tx.Bucket(bucketHolds).Delete(holdKey(in, d)) })
}

// unpinned makes sure that no pin of a repository needs a manifest or a blob: the
// error has [CodePinned].
func (r *Registry) unpinned(in Repository, d digest.Digest) error {
	for key, row := range r.pinRows() {
		if !strings.HasPrefix(key, in.String()+":") && !strings.HasPrefix(key, in.String()+"@") {
			continue
		}
		needs, err := r.reaches(row.Digest, d)
		if err != nil {
			return err
		}
		if needs {
			return pinnedError(key)
		}
	}
	return nil
}

// reaches reports whether a blob is what another refers to, directly or not.
func (r *Registry) reaches(from, to digest.Digest) (bool, error) {
	seen := map[digest.Digest]bool{from: true}
	for ways := []digest.Digest{from}; len(ways) > 0; ways = ways[1:] {
		if ways[0] == to {
			return true, nil
		}
		refs, err := r.store.Refs(ways[0])
		if err != nil && !errors.Is(err, layerstore.ErrNotFound) {
			return false, err
		}
		for _, d := range refs {
			if !seen[d] {
				seen[d] = true
				ways = append(ways, d)
			}
		}
	}
	return false, nil
}

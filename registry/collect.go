package registry

import (
	"context"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/layerstore"
)

// Collection tells what a collection evicted, or would evict. Sizes are in bytes.
type Collection struct {
	DryRun    bool           `json:"dry_run"`
	Leftovers []Leftover     `json:"leftovers"` // what went before any image
	Evicted   []EvictedImage `json:"evicted"`   // in the order in which they went
	Kept      []KeptImage    `json:"kept"`      // what had to stay; only where Short is not 0
	Blobs     int            `json:"blobs"`     // that went, all together
	Bytes     int64          `json:"bytes"`     // that they took
	// Short is how much more should have gone to come within max_size and
	// min_free, and could not.
	Short int64 `json:"short"`
	// Unnamed are blobs that were pushed and that no manifest names.
	Unnamed Unnamed `json:"unnamed"`
}

// Unnamed tells of blobs of homes that no manifest of their repository names, of
// those only that are due: for a day each waits for its manifest, or until
// the last manifest that named it is deleted. Sizes are in bytes.
type Unnamed struct {
	Gone      int   `json:"gone"` // let go, or would be
	GoneBytes int64 `json:"gone_bytes"`
	// Kept stay for another hour or two: a client may have been told that they are
	// there, and be about to push a manifest that names them.
	Kept      int   `json:"kept"`
	KeptBytes int64 `json:"kept_bytes"`
}

// Leftover is what served nobody, and went before any image.
type Leftover struct {
	Kind   string    `json:"kind"`           // quarantine, partial, ingest, forms: see layerstore.LeftoverKind
	Name   string    `json:"name,omitempty"` // of the file, the blob or the ingest
	Bytes  int64     `json:"bytes"`
	Since  time.Time `json:"since,omitzero"` // when it was last written to
	Reason string    `json:"reason"`
}

// EvictedImage is an image that went, with what only it needed.
type EvictedImage struct {
	// References are the names that it was cached by: none for a blob that
	// belongs to no image that is known.
	References []string  `json:"references"`
	Digest     string    `json:"digest"`
	Blobs      int       `json:"blobs"`
	Bytes      int64     `json:"bytes"`
	FormBytes  int64     `json:"form_bytes,omitempty"` // of these, what was made of the blobs
	UsedAt     time.Time `json:"used_at,omitzero"`
	Reason     string    `json:"reason"` // size, free, age: see layerstore.Reason
}

// KeptImage is an image that stayed though space was wanted.
type KeptImage struct {
	References []string  `json:"references"`
	Digest     string    `json:"digest"`
	Bytes      int64     `json:"bytes"` // that are here, those included that others need too
	UsedAt     time.Time `json:"used_at,omitzero"`
	Reason     string    `json:"reason"` // root (pinned), lease, reader, transfer, use: see layerstore.Reason
}

// Collect evicts what the limits of the store ask for, now; with dryRun it only
// tells. Tags of what went stay known: who asks for them has them fetched again.
func (r *Registry) Collect(ctx context.Context, dryRun bool) (Collection, error) {
	unnamed, swept := r.sweepUnnamed(dryRun) // what was pushed and serves no image is not kept for want of an hour
	names, err := r.cachedAs(ctx)            // before: of what is gone not all are known
	if err != nil {
		return Collection{}, err
	}
	c, err := r.store.Collect(ctx, layerstore.CollectOptions{DryRun: dryRun})
	told := Collection{DryRun: dryRun, Leftovers: []Leftover{}, Evicted: []EvictedImage{}, Kept: []KeptImage{}, Blobs: c.Blobs + swept.Blobs, Bytes: c.Bytes + swept.Bytes, Short: c.Short, Unnamed: unnamed}
	for _, l := range c.Leftovers {
		told.Leftovers = append(told.Leftovers, Leftover{Kind: string(l.Kind), Name: l.Name, Bytes: l.Bytes, Since: l.Since, Reason: string(l.Why)})
	}
	for _, e := range c.Gone {
		told.Evicted = append(told.Evicted, EvictedImage{
			References: names.of(e.Top), Digest: e.Top.String(), Blobs: e.Blobs, Bytes: e.Bytes, FormBytes: e.Forms, UsedAt: e.Used, Reason: string(e.Why),
		})
	}
	for _, k := range c.Kept {
		told.Kept = append(told.Kept, KeptImage{
			References: names.of(k.Top), Digest: k.Top.String(), Bytes: k.Bytes, UsedAt: k.Used, Reason: string(k.Why),
		})
	}
	return told, err
}

// cachedAs are the references by which digests are cached, sorted.
type cachedAs map[digest.Digest][]string

func (r *Registry) cachedAs(ctx context.Context) (cachedAs, error) {
	refs, err := r.cached(ctx)
	if err != nil {
		return nil, err
	}
	all := cachedAs{}
	for ref, d := range refs {
		all[d] = append(all[d], ref.String())
	}
	for _, references := range all {
		slices.Sort(references)
	}
	return all, nil
}

func (n cachedAs) of(d digest.Digest) []string { return append([]string{}, n[d]...) }

// evicted forgets manifests that went: what is in memory alone would be
// answered as if it were cached. The store calls it.
func (r *Registry) evicted(gone []digest.Digest) {
	for _, d := range gone {
		r.manifests.Remove(d)
	}
	r.passages.evicted(gone)
	nudge(r.listed)
}

// remember holds a manifest of the store in memory. It may have been evicted
// since it was read: then either the store knows, or evicted is still to come.
func (r *Registry) remember(m *Manifest) {
	r.manifests.Add(m.Descriptor.Digest, m)
	if _, err := r.store.Stat(m.Descriptor.Digest); err != nil {
		r.manifests.Remove(m.Descriptor.Digest)
	}
}

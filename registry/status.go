package registry

import (
	"context"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/layerstore"
)

// Status tells how the cache has been doing. It asks nobody.
func (r *Registry) Status(context.Context) Status {
	s := Status{
		StartedAt: r.started, Root: r.store.Root(), Writable: true,
		Flights: r.store.Flights(), BytesFetched: r.store.Fetched(),
		Gets: r.counts.gets.Load(), Hits: r.counts.hits.Load(), Misses: r.counts.misses.Load(),
		Joined: r.counts.joined.Load(), Stale: r.counts.stale.Load(), Bypassed: r.store.Bypassed(),
	}
	rot := r.store.Integrity()
	s.Quarantined, s.Repaired, s.Unrepaired, s.BytesScrubbed = rot.Quarantined, rot.Repaired, rot.Lost, rot.Scrubbed
	s.Evictions, s.EvictedBytes = r.store.Evicted()
	s.LayersDropped, s.BytesDropped = r.dropping.dropped.Load(), r.dropping.bytes.Load()
	if err := r.store.Writable(); err != nil {
		s.Writable, s.WritableReason = false, err.Error()
	}
	for _, u := range r.routes.all() {
		s.Upstreams = append(s.Upstreams, u.status())
	}
	for key, row := range r.pinRows() {
		s.Pins++
		if h, err := r.holdingOf(row); err != nil || !h.complete() {
			s.PinsIncomplete++
		}
		if d := r.desired.known(key, row.Digest).drift; d.upstream != "" && d.upstream != row.Digest && d.why == "" {
			s.PinsDrifted++
		}
	}
	if drilled := r.lastDrill(); drilled != nil {
		s.DrillFailing, s.DrillExpiring = &drilled.Failing, &drilled.Expiring
	}
	return s
}

// Space is [Registry.DiskUsage] without the images. It walks nothing.
func (r *Registry) Space() (DiskUsage, error) {
	st, err := r.store.Stats()
	if err != nil {
		return DiskUsage{}, err
	}
	return DiskUsage{
		Root: r.store.Root(), Capacity: st.Capacity, Free: st.Free, Blobs: st.Blobs, Bytes: st.Bytes,
		Partial: st.Partial, PartialBytes: st.PartialBytes, Images: []ImageUsage{},
		Idle: st.Idle, IdleBytes: st.IdleBytes, Quarantine: st.Quarantine, QuarantineBytes: st.QuarantineBytes,
		FormBytes: st.FormBytes,
	}, nil
}

// DiskUsage tells where the space went. What several images need is counted
// once in Bytes, and as Shared in each.
func (r *Registry) DiskUsage(ctx context.Context) (DiskUsage, error) {
	usage, err := r.Space()
	if err != nil {
		return DiskUsage{}, err
	}
	refs, err := r.cached(ctx)
	if err != nil {
		return DiskUsage{}, err
	}
	needs, err := r.needs(refs)
	if err != nil {
		return DiskUsage{}, err
	}
	needed := map[digest.Digest]int{} // by how many references: removing one of two frees nothing
	for _, image := range refs {
		for d := range needs[image] {
			needed[d]++
		}
	}
	sizes, err := r.sizesHere(needed)
	if err != nil {
		return DiskUsage{}, err
	}
	for ref, d := range refs {
		if _, here := sizes[d]; here { // a tag is known for longer than its manifest is kept
			usage.Images = append(usage.Images, r.imageUsage(ref, d, needs[d], needed, sizes))
		}
	}
	slices.SortFunc(usage.Images, func(a, b ImageUsage) int { return strings.Compare(a.Reference, b.Reference) })
	return usage, nil
}

// needs is the closure of each image's digest.
func (r *Registry) needs(refs map[Reference]digest.Digest) (map[digest.Digest]map[digest.Digest]bool, error) {
	needs := map[digest.Digest]map[digest.Digest]bool{}
	for _, d := range refs {
		if needs[d] != nil {
			continue
		}
		closure, err := r.store.Closure(d)
		if err != nil {
			return nil, err
		}
		needs[d] = closure
	}
	return needs, nil
}

// sizesHere are the sizes in bytes of those of the digests that are here.
func (r *Registry) sizesHere(of map[digest.Digest]int) (map[digest.Digest]int64, error) {
	sizes := map[digest.Digest]int64{}
	return sizes, r.store.Each(func(i layerstore.Info) error {
		if of[i.Digest] > 0 {
			sizes[i.Digest] = i.Size
		}
		return nil
	})
}

func (r *Registry) imageUsage(ref Reference, d digest.Digest, needs map[digest.Digest]bool, needed map[digest.Digest]int, sizes map[digest.Digest]int64) ImageUsage {
	_, pinned := r.pinned(ref)
	u := ImageUsage{Reference: ref.String(), Digest: d.String(), Pinned: pinned}
	for blob := range needs {
		u.Size += sizes[blob]
		if needed[blob] > 1 {
			u.Shared += sizes[blob]
		} else {
			u.Unique += sizes[blob]
		}
	}
	return u
}

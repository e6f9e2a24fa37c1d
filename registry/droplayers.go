package registry

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
)

// Which layers that lie here unpacked are kept compressed, too.
const (
	DropNever    = "never"    // all
	DropUnpinned = "unpinned" // those that a pin needs
	DropAll      = "all"      // none
)

const (
	// defaultDropAfter is for how long nobody must have used a compressed layer
	// before it is dropped: other machines that pull the same image do it within
	// minutes.
	defaultDropAfter = 10 * time.Minute
	// dropEvery is how often it is looked for layers to drop.
	dropEvery = time.Minute
	// dropRest is how long a layer is left alone that something speaks against.
	dropRest = time.Hour
	// reasonDropped is why a layer is not here that is here in another form.
	reasonDropped = "dropped, unpacked here"
)

// Unpacked knows the layers that lie here unpacked, durably, and such that
// nothing else than their forms is needed to start from them. All methods may be
// called in parallel, and answer from memory.
type Unpacked interface {
	// Stands reports whether a layer does, by its diff ID and by one of the blobs
	// that it was met as.
	Stands(diffID, blob digest.Digest) bool
	// Standing lists the blobs of all that do.
	Standing() []digest.Digest
}

// dropping drops blobs of layers that lie here unpacked. Nothing is remembered of
// a blob that was dropped: that its layer stands here is asked each time, so that
// a form that rots, and a policy that changes, count at once.
type dropping struct {
	policy   string
	after    time.Duration
	every    time.Duration
	unpacked Unpacked                             // nil: DropNever
	diffs    *lru.Cache[digest.Digest, []Layer]   // of images, by manifest
	resting  *lru.Cache[digest.Digest, time.Time] // until when a blob is left alone

	dropped, bytes atomic.Int64
}

func newDropping(o Options) (*dropping, error) {
	d := &dropping{policy: o.DropLayers, after: orElse(o.DropAfter, defaultDropAfter), unpacked: o.Unpacked}
	if d.unpacked == nil || d.policy == "" {
		d.policy = DropNever
	}
	d.every = min(dropEvery, d.after)
	var failed [2]error
	d.diffs, failed[0] = lru.New[digest.Digest, []Layer](manifestsInMemory)
	d.resting, failed[1] = lru.New[digest.Digest, time.Time](passedMost)
	return d, errors.Join(failed[:]...)
}

// lets reports whether a layer that stands here unpacked is enough for an image.
func (d *dropping) lets(pinned bool) bool {
	return d.policy == DropAll || d.policy == DropUnpinned && !pinned
}

// stands reports whether a blob, which need not be here, is a layer of an image
// that lies here unpacked.
func (r *Registry) stands(m *Manifest, blob digest.Digest) bool {
	if r.dropping.policy == DropNever || isIndex(m.Descriptor.MediaType) {
		return false
	}
	found := false
	for _, l := range r.layersOf(m) {
		if l.Digest != blob {
			continue
		}
		if found = r.dropping.unpacked.Stands(l.DiffID, blob); !found {
			return false
		}
	}
	return found
}

// standsFor reports whether a blob stands here unpacked for all images of a plan
// that name it.
func (r *Registry) standsFor(p *plan, blob digest.Digest) bool {
	found := false
	for _, m := range p.manifests {
		if !m.names(blob) {
			continue
		}
		if found = r.stands(m, blob); !found {
			return false
		}
	}
	return found
}

// names reports whether a blob is among those that a registry gives with m.
func (m *Manifest) names(blob digest.Digest) bool {
	return slices.ContainsFunc(m.parsed.blobs(), func(b specs.Descriptor) bool { return b.Digest == blob })
}

// layersOf are the layers of an image whose config is here; none otherwise.
func (r *Registry) layersOf(m *Manifest) []Layer {
	if layers, ok := r.dropping.diffs.Get(m.Descriptor.Digest); ok {
		return layers
	}
	if !hasRootFS(m) {
		return nil
	}
	content, err := r.store.ReadAll(m.parsed.config.Digest, maxManifest)
	if err != nil {
		return nil
	}
	image, err := rootFSOf(Repository{}, m, content)
	if err != nil {
		return nil
	}
	if m.Descriptor.Size <= manifestSmall {
		r.dropping.diffs.Add(m.Descriptor.Digest, image.Layers)
	}
	return image.Layers
}

// holdsUnpacked is holds, where a layer that stands here unpacked counts as here
// if that is enough for the image.
func (r *Registry) holdsUnpacked(p *plan, pinned bool) holding {
	h := r.holds(p)
	if h.complete() || !r.dropping.lets(pinned) {
		return h
	}
	for _, b := range p.blobs {
		if _, absent := r.store.Stat(b.Digest); absent != nil && r.standsFor(p, b.Digest) {
			h.have++
			h.dropped++
		}
	}
	return h
}

// unfetched leaves out of an image's blobs those that are not here and need not
// be fetched, for they stand here unpacked.
func (r *Registry) unfetched(p *plan, pinned bool) []specs.Descriptor {
	if !r.dropping.lets(pinned) {
		return p.blobs
	}
	return slices.DeleteFunc(slices.Clone(p.blobs), func(b specs.Descriptor) bool {
		_, absent := r.store.Stat(b.Digest)
		return absent != nil && r.standsFor(p, b.Digest)
	})
}

// notStanding leaves out of an image's blobs those that nobody is likely to ask for,
// because they stand here unpacked.
func (r *Registry) notStanding(m *Manifest, blobs []specs.Descriptor) []specs.Descriptor {
	return slices.DeleteFunc(slices.Clone(blobs), func(b specs.Descriptor) bool { return r.stands(m, b.Digest) })
}

// dropLayers drops blobs until the registry closes.
func (r *Registry) dropLayers() {
	if r.dropping.policy == DropNever {
		return
	}
	tick := time.NewTicker(r.dropping.every)
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C:
		}
		if err := r.dropUnused(r.ctx); err != nil && r.ctx.Err() == nil {
			r.log.Error("layers that are unpacked are kept compressed too", "error", err)
		}
	}
}

// dropUnused drops what may be dropped now.
func (r *Registry) dropUnused(ctx context.Context) error {
	due, err := r.droppable()
	if err != nil || len(due) == 0 {
		return err
	}
	holders, err := r.holders(due)
	if err != nil {
		return err
	}
	for _, blob := range due {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if r.confirmed(ctx, blob.Digest, holders[blob.Digest]) {
			r.drop(blob.Digest)
		} else {
			r.rest(blob.Digest)
		}
	}
	return nil
}

// rest leaves a blob alone for a while.
func (r *Registry) rest(blob digest.Digest) { r.dropping.resting.Add(blob, r.now().Add(dropRest)) }

// droppable are the blobs, here and unused for long enough, for which a layer
// stands here unpacked, whoever needs it.
func (r *Registry) droppable() (due []layerstore.Loss, err error) {
	unused := r.unused()
	if len(unused) == 0 {
		return nil, nil
	}
	pinned, err := r.pinnedBlobs()
	if err != nil {
		return nil, err
	}
	for _, blob := range unused {
		switch {
		case pinned[blob]:
		case r.standsForAll(blob):
			due = append(due, layerstore.Loss{Digest: blob})
		default:
			r.rest(blob)
		}
	}
	return due, nil
}

// unused are the blobs of unpacked layers that nobody has used for long enough.
func (r *Registry) unused() (blobs []digest.Digest) {
	now := r.now()
	for _, d := range r.dropping.unpacked.Standing() {
		info, err := r.store.Stat(d)
		until, resting := r.dropping.resting.Get(d)
		if err != nil || now.Sub(info.Used) < r.dropping.after || resting && now.Before(until) {
			continue
		}
		blobs = append(blobs, d)
	}
	return blobs
}

// pinnedBlobs are those that a pin needs compressed.
func (r *Registry) pinnedBlobs() (map[digest.Digest]bool, error) {
	if r.dropping.lets(true) {
		return nil, nil
	}
	var tops []digest.Digest
	for _, row := range r.pinRows() {
		tops = append(tops, row.Digest)
	}
	return r.store.Closure(tops...)
}

// standsForAll reports whether whatever is here and names a blob is an image for
// which it stands here unpacked.
func (r *Registry) standsForAll(blob digest.Digest) bool {
	parents, err := r.store.Referrers(blob)
	if err != nil || len(parents) == 0 {
		return false
	}
	for _, d := range parents {
		m, err := r.local(d)
		if err != nil || !m.names(blob) || !r.stands(m, blob) {
			return false
		}
	}
	return true
}

// confirmed reports whether an upstream says now that it has a blob: what was
// imported, or removed there, could not be had again.
func (r *Registry) confirmed(ctx context.Context, blob digest.Digest, holders []Repository) bool {
	for _, in := range holders {
		v, err := r.operatorView(in)
		if err != nil || v.upstream.home != nil || v.limitedFor(subjectBlob) != nil {
			continue
		}
		if _, _, resting := v.upstream.resting(); resting {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, askingMost)
		_, err = v.upstream.blobSize(ctx, in.Path, blob)
		cancel()
		if err == nil {
			return true
		}
		r.log.Debug("layer is kept compressed, for upstream does not say that it has it", "repository", in.String(), "digest", blob, "error", err)
	}
	return false
}

func (r *Registry) drop(blob digest.Digest) {
	freed, err := r.store.Shed(blob, r.dropping.after)
	switch {
	case err == nil:
		r.dropping.dropped.Add(1)
		r.dropping.bytes.Add(freed)
		r.log.Info("compressed layer dropped, for it is here unpacked", "digest", blob, "bytes", freed)
	case errors.Is(err, layerstore.ErrNotFound), errors.Is(err, layerstore.ErrInUse), errors.Is(err, layerstore.ErrClosed):
	case errors.Is(err, layerstore.ErrNeeded): // by a root of its own: it was pushed here
		r.rest(blob)
	default:
		r.log.Error("compressed layer not dropped", "digest", blob, "error", err)
	}
}

// fetchDropped fetches again what is here unpacked only, for who needs the bytes
// themselves, and gives what lacks still. A lease keeps what was fetched.
func (r *Registry) fetchDropped(ctx context.Context, lacks []Lack) ([]Lack, error) {
	lacks, dropped := partDropped(lacks)
	var lost []layerstore.Loss
	for _, l := range dropped {
		lost = append(lost, layerstore.Loss{Digest: digest.Digest(l.Digest)})
	}
	if len(lost) == 0 {
		return lacks, nil
	}
	holders, err := r.holders(lost)
	if err != nil {
		return nil, err
	}
	for i, l := range lost {
		err := r.bringBack(ctx, l, holders[l.Digest])
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			dropped[i].Reason += ", and could not be fetched again: " + err.Error()
			lacks = append(lacks, dropped[i])
		}
	}
	return lacks, nil
}

// OpenNeeded opens a blob that an image which is here names: from the disk, or
// fetched again from where it is known to be, with the operator's own
// credential. Errors are as for [Registry.OpenLayer].
func (r *Registry) OpenNeeded(ctx context.Context, blob specs.Descriptor) (*layerstore.Blob, error) {
	b, err := r.store.Fetch(ctx, blob, nil)
	if !errors.Is(err, layerstore.ErrNotFound) {
		return b, err
	}
	if parents, wrong := r.store.Referrers(blob.Digest); wrong != nil || len(parents) == 0 {
		return nil, errors.Join(err, wrong)
	}
	holders, wrong := r.holders([]layerstore.Loss{{Digest: blob.Digest}})
	if wrong != nil {
		return nil, wrong
	}
	failures := []error{err}
	for _, in := range holders[blob.Digest] {
		v, err := r.operatorView(in)
		if err == nil {
			b, err = r.openFor(ctx, v, blob)
		}
		if err == nil {
			return b, nil
		}
		failures = append(failures, r.about(in.String()+"@"+blob.Digest.String(), err))
	}
	return nil, errors.Join(failures...)
}

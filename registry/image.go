package registry

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/layerstore"
)

// Images lists what is cached in the order of references: tags, pins, and
// manifests that were asked for by their digest alone.
func (r *Registry) Images(ctx context.Context) ([]Image, error) {
	refs, err := r.cached(ctx)
	if err != nil {
		return nil, err
	}
	images := make([]Image, 0, len(refs))
	for ref, d := range refs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		top, err := r.local(d)
		if errors.Is(err, layerstore.ErrNotFound) {
			continue
		}
		if err != nil {
			r.log.Warn("image not listed", "reference", ref.String(), "error", err)
			continue
		}
		image, err := r.imageOf(ref, top, nil)
		if err != nil {
			return nil, err
		}
		images = append(images, image)
	}
	slices.SortFunc(images, func(a, b Image) int { return strings.Compare(a.Reference, b.Reference) })
	return images, nil
}

// cached is every reference that can be answered from here, and its digest.
func (r *Registry) cached(ctx context.Context) (map[Reference]digest.Digest, error) {
	refs := map[Reference]digest.Digest{}
	named := map[digest.Digest]bool{}
	for key, d := range r.named() {
		ref, err := ParseReference(key)
		if err != nil {
			return nil, err
		}
		refs[ref] = d
		named[d] = true
	}
	reached, err := r.store.Closure(slices.Collect(maps.Keys(named))...)
	if err != nil {
		return nil, err
	}
	unnamed := map[digest.Digest]bool{}
	err = r.store.Each(func(i layerstore.Info) error {
		if (isIndex(i.MediaType) || isImage(i.MediaType)) && !reached[i.Digest] {
			unnamed[i.Digest] = true
		}
		return ctx.Err()
	})
	if err != nil || len(unnamed) == 0 {
		return refs, err
	}
	if err := r.topsOf(unnamed); err != nil {
		return nil, err
	}
	return refs, r.addUnnamed(refs, unnamed)
}

// named are the digests of all tags and pins; a pin wins.
func (r *Registry) named() map[string]digest.Digest {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make(map[string]digest.Digest, len(r.tags)+len(r.pins))
	for key, t := range r.tags {
		all[key] = t.row.Digest
	}
	for key, row := range r.pins {
		all[key] = row.Digest
	}
	return all
}

// topsOf leaves the manifests that no other of the set refers to.
func (r *Registry) topsOf(set map[digest.Digest]bool) error {
	for d := range set {
		children, err := r.store.Refs(d)
		if err != nil {
			return err
		}
		for _, c := range children {
			delete(set, c)
		}
	}
	return nil
}

// addUnnamed names manifests by the repositories in which they were found.
func (r *Registry) addUnnamed(refs map[Reference]digest.Digest, unnamed map[digest.Digest]bool) error {
	return r.state.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketHolds).ForEach(func(k, _ []byte) error {
			_, d, _ := strings.Cut(string(k), "@")
			if !unnamed[digest.Digest(d)] {
				return nil
			}
			ref, err := ParseReference(string(k))
			if err != nil {
				return err
			}
			refs[ref] = ref.Digest
			return nil
		})
	})
}

// imageOf tells how an image stands. wanted nil means the platforms of its
// pin, else those of which anything but the manifest is here.
func (r *Registry) imageOf(ref Reference, top *Manifest, wanted []string) (Image, error) {
	image := Image{
		Reference: ref.String(), Digest: top.Descriptor.Digest.String(), MediaType: top.Descriptor.MediaType,
	}
	if t, ok := r.tagged(ref.String()); ok && t.row.Digest == top.Descriptor.Digest {
		image.CheckedAt = t.checked
	}
	pin, pinned := r.pinned(ref)
	image.Pinned = pinned && pin.Digest == top.Descriptor.Digest
	if info, err := r.store.Stat(top.Descriptor.Digest); err == nil {
		image.UsedAt = info.Used
	}
	if image.Pinned && wanted == nil {
		wanted = pin.Platforms
	}
	here := r.platformsHere(top, image.Pinned)
	if len(wanted) == 0 {
		wanted = here.any
	}
	image.Platforms = here.complete
	p, err := r.localPlan(top, wanted)
	if err != nil {
		return image, r.about(ref.String(), err)
	}
	h := r.holdsUnpacked(p, image.Pinned)
	image.Have, image.Want, image.Size, image.Complete = h.have, h.want, h.bytes, h.complete() && len(here.complete) > 0
	image.Dropped = h.dropped
	return image, nil
}

// presence tells which platforms of an image are here, unpacked at least where
// that is enough for it.
type presence struct{ complete, any []string }

func (r *Registry) platformsHere(top *Manifest, pinned bool) (here presence) {
	images := top.parsed.images()
	if !isIndex(top.Descriptor.MediaType) || len(images) == 0 && len(top.parsed.manifests) > 0 {
		name := r.platformOfImage(top)
		p, err := r.localPlan(top, []string{PlatformAll})
		if err == nil && r.holdsUnpacked(p, pinned).complete() {
			here.complete = []string{name}
		}
		here.any = []string{PlatformAll}
		return here
	}
	for _, c := range images {
		child, err := r.local(c.Digest)
		if err != nil || c.Platform == nil || c.Platform.OS == "unknown" {
			continue
		}
		name := platforms.Format(*c.Platform)
		here.any = append(here.any, name)
		if p, err := r.localPlan(child, []string{PlatformAll}); err == nil && r.holdsUnpacked(p, pinned).complete() {
			here.complete = append(here.complete, name)
		}
	}
	if here.any == nil {
		here.any = []string{} // the index alone
	}
	return here
}

// platformOfImage reads a manifest's config, where that is here.
func (r *Registry) platformOfImage(m *Manifest) string {
	config, ok := r.configOf(m)
	if !ok || config.OS == "" {
		return "unknown"
	}
	return platforms.Format(platforms.Normalize(config.Platform))
}

func (r *Registry) configOf(m *Manifest) (config specs.Image, ok bool) {
	if m.parsed.config == nil {
		return config, false
	}
	content, err := r.store.ReadAll(m.parsed.config.Digest, maxManifest)
	if err != nil {
		return config, false
	}
	return config, json.Unmarshal(content, &config) == nil
}

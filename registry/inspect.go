package registry

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/containerd/platforms"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
)

// Inspect tells everything about a cached image. It asks nobody: a reference
// that is not cached is an error with [CodeManifestUnknown].
func (r *Registry) Inspect(ctx context.Context, ref Reference) (Inspection, error) {
	top, err := r.cachedManifest(ref)
	if err != nil {
		return Inspection{}, err
	}
	image, err := r.imageOf(ref.named(), top, nil)
	if err != nil {
		return Inspection{}, err
	}
	i := Inspection{Image: image, Manifests: []InspectedManifest{r.inspected(top, "")}}
	for _, c := range top.parsed.images() {
		if err := ctx.Err(); err != nil {
			return Inspection{}, err
		}
		i.Manifests = append(i.Manifests, r.inspectedChild(c))
	}
	i.Config = r.ownConfig(top)
	return i, nil
}

// cachedManifest is what a reference means here, without asking upstream.
func (r *Registry) cachedManifest(ref Reference) (*Manifest, error) {
	d := ref.Digest
	if d == "" {
		if pin, ok := r.pinned(ref); ok {
			d = pin.Digest
		} else if t, ok := r.tagged(ref.String()); ok {
			d = t.row.Digest
		}
	}
	if d == "" {
		return nil, notCached(ref)
	}
	top, err := r.local(d)
	if errors.Is(err, layerstore.ErrNotFound) {
		return nil, notCached(ref)
	}
	return top, err
}

func notCached(ref Reference) *Error {
	return &Error{Code: CodeManifestUnknown, Reference: ref.String(), Message: "not cached; fetch it with imagecache pull"}
}

func (r *Registry) inspected(m *Manifest, platform string) InspectedManifest {
	i := InspectedManifest{
		Digest: m.Descriptor.Digest.String(), MediaType: m.Descriptor.MediaType, Size: m.Descriptor.Size,
		Platform: platform, Here: true, Annotations: m.parsed.notes,
	}
	if platform == "" && !isIndex(m.Descriptor.MediaType) {
		i.Platform = r.platformOfImage(m)
	}
	if m.parsed.config != nil {
		config := r.inspectedBlob(m, *m.parsed.config)
		i.Config = &config
	}
	for _, l := range m.parsed.contents() {
		i.Layers = append(i.Layers, r.inspectedBlob(m, l))
	}
	return i
}

func (r *Registry) inspectedChild(c specs.Descriptor) InspectedManifest {
	platform := ""
	if c.Platform != nil {
		platform = platforms.Format(*c.Platform)
	}
	if m, err := r.local(c.Digest); err == nil {
		return r.inspected(m, platform)
	}
	return InspectedManifest{Digest: c.Digest.String(), MediaType: c.MediaType, Size: c.Size, Platform: platform, Annotations: c.Annotations}
}

func (r *Registry) inspectedBlob(m *Manifest, d specs.Descriptor) InspectedBlob {
	_, err := r.store.Stat(d.Digest)
	return InspectedBlob{Digest: d.Digest.String(), MediaType: d.MediaType, Size: d.Size, Here: err == nil,
		Dropped: err != nil && r.stands(m, d.Digest)}
}

// ownConfig is the image config for this machine, as it stands.
func (r *Registry) ownConfig(top *Manifest) any {
	m := top
	if isIndex(top.Descriptor.MediaType) {
		best := bestMatch(top.parsed.manifests, platforms.Default())
		if best == nil {
			return nil
		}
		child, err := r.local(best.Digest)
		if err != nil {
			return nil
		}
		m = child
	}
	if m.parsed.config == nil {
		return nil
	}
	content, err := r.store.ReadAll(m.parsed.config.Digest, maxManifest)
	if err != nil || !json.Valid(content) {
		return nil
	}
	return json.RawMessage(content)
}

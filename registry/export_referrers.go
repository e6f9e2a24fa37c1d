package registry

import (
	"context"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
)

// referrerAnnotation marks a line of index.json that is no image of its own but
// refers to one in the archive: a signature, an SBOM. Its value are the references
// that lead to it, parted by commas: by digest, or by a tag of cosign's. Such a line
// has no name that other tools read: they would take it for an image and unpack it.
const referrerAnnotation = "com.github.imagecache.referrer"

// attached is what goes with an image because it refers to it.
type attached struct {
	ref  Reference // by digest, or by a tag of cosign's
	top  *Manifest
	plan *plan
}

// attaching looks for what goes with the manifests of one repository.
type attaching struct {
	r     *Registry
	lease *layerstore.Lease
	v     view
	seen  map[string]bool // references
	found []attached
}

// attachedTo finds what refers to an image, and to that in turn, as far as it is
// here whole.
func (r *Registry) attachedTo(ctx context.Context, lease *layerstore.Lease, in Repository, image *plan) ([]attached, error) {
	v, err := r.operatorView(in)
	if err != nil {
		return nil, err
	}
	a := &attaching{r: r, lease: lease, v: v, seen: map[string]bool{}}
	err = a.walk(ctx, image.manifests, 0)
	return a.found, err
}

func (a *attaching) walk(ctx context.Context, manifests []*Manifest, depth int) error {
	if depth > depthMost || len(manifests) == 0 {
		return ctx.Err()
	}
	var next []*Manifest
	for _, m := range manifests {
		refs, err := a.referring(m.Descriptor.Digest)
		if err != nil {
			return err
		}
		for _, ref := range refs {
			if one, ok := a.whole(ctx, ref); ok {
				a.found = append(a.found, one)
				next = append(next, one.plan.manifests...)
			}
		}
	}
	return a.walk(ctx, next, depth+1)
}

// referring lists what refers to a manifest, by digest, and what cosign's tags name for it.
func (a *attaching) referring(to digest.Digest) (refs []Reference, err error) {
	var list []specs.Descriptor
	if a.v.upstream.home != nil {
		list, err = a.v.upstream.home.referrers(a.v.repository, to)
	} else {
		list = a.r.referrersKept(a.v, to)
	}
	for _, d := range list {
		refs = append(refs, Reference{Repository: a.v.repository, Digest: d.Digest})
	}
	for _, suffix := range cosignSuffixes {
		refs = append(refs, Reference{Repository: a.v.repository, Tag: cosignTag(to, suffix)})
	}
	return refs, err
}

// whole reports whether what refers to an image is here with all that it needs.
// A signature that is not does not verify here either, and keeps no image from being exported.
func (a *attaching) whole(ctx context.Context, ref Reference) (attached, bool) {
	if a.seen[ref.String()] {
		return attached{}, false
	}
	a.seen[ref.String()] = true
	top, err := a.r.cachedManifest(ref)
	if err != nil {
		return attached{}, false
	}
	a.lease.Hold(top.Descriptor.Digest)
	if len(a.r.lacksOf(ctx, top.Descriptor.Digest, []string{PlatformAll}, a.r.here)) > 0 {
		return attached{}, false
	}
	p, err := a.r.localPlan(top, []string{PlatformAll})
	return attached{ref, top, p}, err == nil
}

// referrerLines are the lines of index.json of what goes with images, by digest.
func referrerLines(all []attached) []specs.Descriptor {
	byDigest := map[digest.Digest]*specs.Descriptor{}
	led := map[digest.Digest][]string{}
	for _, a := range all {
		d := asReferrer(a.top)
		d.Annotations = nil // they stand in the manifest
		byDigest[d.Digest] = &d
		led[d.Digest] = append(led[d.Digest], a.ref.String())
	}
	var lines []specs.Descriptor
	for d, line := range byDigest {
		slices.Sort(led[d])
		line.Annotations = map[string]string{referrerAnnotation: strings.Join(slices.Compact(led[d]), ",")}
		lines = append(lines, *line)
	}
	slices.SortFunc(lines, func(a, b specs.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	return lines
}

package registry

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
)

// named is an image as an archive names it.
type named struct {
	desc specs.Descriptor
	name string // "" where it has none that is whole
	tag  string // what it has instead
}

// namedInLayout reads index.json (OCI image layout specification, "index.json file").
func (i *importing) namedInLayout(ctx context.Context) (all []named, err error) {
	var version specs.ImageLayout
	content, ok := i.small[specs.ImageLayoutFile]
	if !ok || json.Unmarshal(content, &version) != nil || version.Version != specs.ImageLayoutVersion {
		return nil, badArchive("it has index.json and no oci-layout of version %s beside it", specs.ImageLayoutVersion)
	}
	var index specs.Index
	if err := json.Unmarshal(i.small[specs.ImageIndexFile], &index); err != nil {
		return nil, badArchive("index.json: %v", err)
	}
	if i.o.Name.Path != "" && ofOneImage(index) {
		desc := specs.Descriptor{MediaType: specs.MediaTypeImageIndex, Digest: digest.FromBytes(i.small[specs.ImageIndexFile]), Size: int64(len(i.small[specs.ImageIndexFile]))}
		return []named{{desc: desc}}, i.keep(ctx, desc, i.small[specs.ImageIndexFile])
	}
	for _, d := range index.Manifests {
		if _, err := ParseDigest(d.Digest.String()); err != nil {
			return nil, badArchive("index.json names %s, which is not a digest", quoted(d.Digest.String()))
		}
		// Our own exports have a whole name in ref.name; where docker, containerd and
		// buildx write both, it is a tag of no repository, "v1".
		n := named{desc: d, name: d.Annotations[specs.AnnotationRefName]}
		if !strings.ContainsAny(n.name, ":/") {
			n.name, n.tag = d.Annotations[nameAnnotation], n.name
		}
		all = append(all, n)
	}
	return all, nil
}

// ofOneImage reports whether an index.json is the index of one image itself, as
// apko writes it: several platforms, and no names.
func ofOneImage(index specs.Index) bool {
	platform := map[string]bool{}
	for _, d := range index.Manifests {
		if d.Platform == nil || len(d.Annotations[nameAnnotation]+d.Annotations[specs.AnnotationRefName]) > 0 {
			return false
		}
		platform[platforms.FormatAll(*d.Platform)] = true
	}
	return len(platform) > 1 && len(platform) == len(index.Manifests)
}

// reference is what an image will be called.
func (i *importing) reference(n named) (Reference, error) {
	ref := i.o.Name
	if ref.Path == "" {
		if n.name == "" && n.tag == "" {
			return Reference{}, badArchive("it does not say what the image %s is called; give it a name with --name", n.desc.Digest)
		}
		if n.name == "" {
			return Reference{}, badArchive("it calls an image %s and does not say of which repository; give it a name with --name", quoted(n.tag))
		}
		var err error
		if ref, err = ParseReference(n.name); err != nil {
			return Reference{}, err
		}
	}
	if ref.Digest != "" && ref.Digest != n.desc.Digest {
		return Reference{}, badArchive("the image is called %s, and its digest is %s", ref, n.desc.Digest)
	}
	return ref.named(), nil
}

// arrive sees to it that an image is whole: its manifests have their edges, and
// all that they need is here with the size that they say.
func (i *importing) arrive(ctx context.Context, ref Reference, n named) (arrived, error) {
	top, err := i.adopt(ctx, n.desc, 0)
	if errors.Is(err, layerstore.ErrNotFound) {
		return arrived{}, lacking([]Lack{{Kind: "manifest", Digest: n.desc.Digest.String(), Reason: reasonAbsent}})
	}
	if err != nil {
		return arrived{}, err
	}
	image := arrived{ref: ref, top: top}
	if image.wanted, err = i.platforms(top, n.desc); err != nil {
		return arrived{}, err
	}
	lacks := slices.DeleteFunc(i.r.lacksOf(ctx, top.Descriptor.Digest, image.wanted, i.r.here), func(l Lack) bool { return l.Kind == lackForeign })
	if len(lacks) > 0 {
		return arrived{}, lacking(lacks)
	}
	if image.plan, err = i.r.localPlan(top, image.wanted); err != nil {
		return arrived{}, err
	}
	return image, i.sizesRight(image.plan.blobs)
}

func lacking(lacks []Lack) *Error {
	return &Error{Code: CodeIncomplete, Message: "the archive lacks what is not here either: " + someLacks(lacks) +
		"; bring the whole archive, exported without --have, or for the platforms it has"}
}

// adopt makes manifests, the children of an index included, known as such.
func (i *importing) adopt(ctx context.Context, desc specs.Descriptor, depth int) (*Manifest, error) {
	if depth > depthMost {
		return nil, badArchive("an index is nested more than %d deep", depthMost)
	}
	i.lease.Hold(desc.Digest)
	content, err := i.r.store.ReadAll(desc.Digest, maxManifest)
	if err != nil {
		if tooLarge := new(layerstore.SizeError); errors.As(err, &tooLarge) {
			return nil, badArchive("the manifest %s is larger than %d bytes", desc.Digest, maxManifest)
		}
		return nil, err
	}
	if desc.Digest.Algorithm().FromBytes(content) != desc.Digest {
		return nil, i.r.rotten(desc.Digest, nil)
	}
	if desc.Size != 0 && desc.Size != int64(len(content)) {
		return nil, badArchive("it says that %s has %d bytes, and it has %d", desc.Digest, desc.Size, len(content))
	}
	p, err := parseManifest(desc.MediaType, content)
	if err != nil {
		return nil, badArchive("%s: %v", desc.Digest, err)
	}
	m := &Manifest{Descriptor: specs.Descriptor{MediaType: p.mediaType, Digest: desc.Digest, Size: int64(len(content))},
		Content: content, parsed: p, came: i.r.now()}
	i.lease.Hold(p.digests()...)
	for _, c := range p.images() {
		if _, err := i.adopt(ctx, c, depth+1); err != nil && !errors.Is(err, layerstore.ErrNotFound) {
			return nil, err
		}
	}
	return m, i.r.store.Put(ctx, m.Descriptor, content, p.digests()...)
}

// platforms are those that an image is whole for: those that the archive was
// exported for; else all, if all are here; else those of the children that came.
func (i *importing) platforms(top *Manifest, desc specs.Descriptor) ([]string, error) {
	if !isIndex(top.Descriptor.MediaType) {
		return []string{PlatformAll}, nil
	}
	if said := desc.Annotations[platformsAnnotation]; said != "" {
		return CheckPlatforms(strings.Split(said, ","))
	}
	if p, err := i.r.localPlan(top, []string{PlatformAll}); err != nil || i.r.holds(p).complete() {
		return []string{PlatformAll}, err
	}
	came := i.digests()
	var wanted []string
	for _, c := range top.parsed.images() {
		if came[c.Digest] && c.Platform != nil && c.Platform.OS != "unknown" {
			wanted = append(wanted, platforms.Format(*c.Platform))
		}
	}
	if len(wanted) == 0 {
		return []string{PlatformAll}, nil // of which something lacks
	}
	return CheckPlatforms(wanted)
}

// digests are those of all that came.
func (i *importing) digests() map[digest.Digest]bool {
	all := map[digest.Digest]bool{}
	for _, m := range i.members {
		all[m.digest] = true
	}
	return all
}

// sizesRight compares what manifests say of blobs with what is here.
func (i *importing) sizesRight(blobs []specs.Descriptor) error {
	var digests []digest.Digest
	for _, b := range blobs {
		digests = append(digests, b.Digest)
	}
	sizes, err := i.r.store.Sizes(digests)
	if err != nil {
		return err
	}
	for _, b := range blobs {
		if sizes[b.Digest] != b.Size {
			return badArchive("a manifest says that %s has %d bytes, and it has %d", b.Digest, b.Size, sizes[b.Digest])
		}
	}
	return nil
}

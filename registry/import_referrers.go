package registry

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// cosignKinds are how cosign save calls lines of index.json: they name nothing, and belong
// to the one image of the layout.
var cosignKinds = map[string]string{
	"dev.cosignproject.cosign/sigs": ".sig",
	"dev.cosignproject.cosign/atts": ".att",
}

// referring is a line of an archive that goes with an image of it, if the image is there.
type referring struct {
	named
	of     digest.Digest // "": the one image of the archive
	suffix string        // of cosign's tag, "" for what says itself what it refers to
	in     []Repository  // where it may go; none: wherever the image goes
}

// part parts lines that refer to others from those that are images.
func (i *importing) part(all []named) (images []named, refer []referring, err error) {
	for _, n := range all {
		found, err := i.asReferring(n)
		if err != nil {
			return nil, nil, err
		}
		if len(found) == 0 {
			images = append(images, n)
		}
		refer = append(refer, found...)
	}
	return images, refer, nil
}

// asReferring tells what a line refers to: as our export says it, by a tag of cosign's, by
// the tag under which clients list referrers where there is no API, as cosign save says it, or,
// where it has no name, as the manifest itself does (so oras writes layouts).
func (i *importing) asReferring(n named) ([]referring, error) {
	if led := n.desc.Annotations[referrerAnnotation]; led != "" {
		return i.ledTo(n, led)
	}
	if suffix := cosignKinds[n.desc.Annotations["kind"]]; suffix != "" && n.name == "" && n.tag == "" {
		return []referring{{named: n, suffix: suffix}}, nil
	}
	if n.name != "" {
		ref, err := ParseReference(n.name)
		if of, suffix, ok := cosignSubject(ref.Tag); err == nil && ok {
			return []referring{{named: n, of: of, suffix: suffix, in: []Repository{ref.Repository}}}, nil
		}
		return nil, nil
	}
	if of, suffix, ok := cosignSubject(n.tag); ok {
		return []referring{{named: n, of: of, suffix: suffix}}, nil
	}
	if of, ok := digestOfTag(n.tag); ok {
		return i.listed(n, of), nil
	}
	if of := i.subjectIn(n.desc); of != "" && n.tag == "" {
		return []referring{{named: n, of: of}}, nil
	}
	return nil, nil
}

// ledTo reads what our export says of a line.
func (i *importing) ledTo(n named, led string) (all []referring, err error) {
	for _, name := range strings.Split(led, ",") {
		ref, err := ParseReference(name)
		if err != nil {
			return nil, err
		}
		r := referring{named: n, in: []Repository{ref.Repository}}
		r.of, r.suffix, _ = cosignSubject(ref.Tag)
		if r.suffix == "" {
			r.of = i.subjectIn(n.desc)
		}
		if r.of == "" {
			return nil, badArchive("it calls %s a referrer, and it refers to nothing", n.desc.Digest)
		}
		all = append(all, r)
	}
	return all, nil
}

// listed are the manifests of an index that lists referrers.
func (i *importing) listed(n named, of digest.Digest) (all []referring) {
	content, err := i.r.store.ReadAll(n.desc.Digest, maxManifest)
	if err != nil {
		return nil
	}
	p, err := parseManifest(n.desc.MediaType, content)
	if err != nil {
		return nil
	}
	for _, d := range p.manifests {
		if i.subjectIn(d) == of {
			all = append(all, referring{named: named{desc: d}, of: of})
		}
	}
	return all
}

// subjectIn is what a manifest of the archive, or one that is here, refers to.
func (i *importing) subjectIn(desc specs.Descriptor) digest.Digest {
	content, err := i.r.store.ReadAll(desc.Digest, maxManifest)
	if err != nil || !json.Valid(content) {
		return ""
	}
	return subjectOf(&Manifest{Content: content})
}

// cosignSubject is what a tag of cosign's is for.
func cosignSubject(tag string) (of digest.Digest, suffix string, ok bool) {
	for _, suffix := range cosignSuffixes {
		if plain, cut := strings.CutSuffix(tag, suffix); cut {
			of, ok := digestOfTag(plain)
			return of, suffix, ok
		}
	}
	return "", "", false
}

// digestOfTag reads a digest with a dash in place of the colon.
func digestOfTag(tag string) (digest.Digest, bool) {
	d, err := ParseDigest(strings.Replace(tag, "-", ":", 1))
	return d, err == nil
}

// follow finds to which images of the archive each line goes, and sees to it that
// it is whole. What goes with none is left.
func (i *importing) follow(ctx context.Context, images []arrived, refer []referring) (followed []arrived, left []named, err error) {
	byOf := map[digest.Digest][]referring{}
	for _, r := range refer {
		if r.of == "" && len(images) == 1 {
			r.of = images[0].top.Descriptor.Digest
		}
		byOf[r.of] = append(byOf[r.of], r)
	}
	seen, used := map[string]bool{}, map[digest.Digest]bool{}
	for next := slices.Clone(images); len(next) > 0; {
		more, err := i.followOne(ctx, next[0], byOf, seen)
		if err != nil {
			return nil, nil, err
		}
		for _, m := range more {
			used[m.top.Descriptor.Digest] = true
		}
		followed = append(followed, more...)
		next = append(next[1:], more...)
	}
	for _, r := range refer {
		if !used[r.desc.Digest] {
			used[r.desc.Digest] = true
			left = append(left, r.named)
		}
	}
	return followed, left, nil
}

// followOne finds what refers to any manifest of an image, or of what refers to one.
func (i *importing) followOne(ctx context.Context, image arrived, byOf map[digest.Digest][]referring, seen map[string]bool) (all []arrived, err error) {
	for _, m := range image.plan.manifests {
		for _, r := range byOf[m.Descriptor.Digest] {
			ref, ok := i.placeOf(r, image.ref.Repository)
			if !ok || seen[ref.String()] {
				continue
			}
			seen[ref.String()] = true
			one, err := i.arrive(ctx, ref, r.named)
			if err != nil {
				return nil, i.r.about(ref.String(), err)
			}
			one.of = m.Descriptor.Digest
			all = append(all, one)
		}
	}
	return all, nil
}

// placeOf is what a line is called in a repository, if it belongs there.
func (i *importing) placeOf(r referring, in Repository) (Reference, bool) {
	if len(r.in) > 0 && i.o.Name.Path == "" && !slices.Contains(r.in, in) {
		return Reference{}, false
	}
	if r.suffix == "" {
		return Reference{Repository: in, Digest: r.desc.Digest}, true
	}
	return Reference{Repository: in, Tag: cosignTag(r.of, r.suffix)}, true
}

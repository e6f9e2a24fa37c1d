package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/layerstore"
)

// ImportOptions say what becomes of an archive.
type ImportOptions struct {
	// Name is what the archive's one image is to be called; the zero value: as
	// the archive says.
	Name Reference
	// Pin pins what is imported, at its digest and for the platforms that came.
	Pin bool
}

// Imported tells what an import brought.
type Imported struct {
	Images    []Image `json:"images"`
	Referrers int     `json:"referrers"`       // that went with them: signatures, SBOMs and the like
	Blobs     int     `json:"blobs"`           // that were not here before
	Bytes     int64   `json:"bytes"`           // of those
	Known     int     `json:"known"`           // blobs of the archive that were here before
	Moved     []Moved `json:"moved,omitempty"` // tags that meant something else here
}

// Moved is a tag that an import gave another digest than it had here.
type Moved struct {
	Reference string        `json:"reference"`
	From      digest.Digest `json:"from"`
	To        digest.Digest `json:"to"`
}

// Import takes a tar of an OCI image layout, of docker save or of skopeo's dir:,
// as it is or compressed by gzip or zstd. What comes is hashed and kept; when all has come, it is looked whether
// every image that the archive names is whole, with what was here before; and
// then they get their names. Where anything is wrong nothing gets one, and what
// came goes again, unless something else has begun to need it.
//
// What refers to an image of the archive, as a signature or an SBOM does, goes where
// the image goes, and is listed there.
//
// An image of an upstream is as if it had been pulled with the operator's
// credential just now. One of a home is as if it had been pushed.
//
// Errors have [CodeArchiveInvalid] for what is no archive of images, or whose
// bytes are not what their names say, [CodeIncomplete] where something is neither
// in it nor here, [CodePinned] where a name is pinned at another digest and
// o.Pin is not set, those of names, and those of from.
func (r *Registry) Import(ctx context.Context, from io.Reader, o ImportOptions) (Imported, error) {
	if o.Name.Path != "" {
		if _, err := r.routes.upstream(o.Name.Registry); err != nil {
			return Imported{}, r.about(o.Name.String(), err)
		}
	}
	i := &importing{r: r, o: o, lease: r.store.Lease(), members: map[string]member{}, links: map[string]string{}, small: map[string][]byte{}, kept: map[digest.Digest]bool{}, unzipped: map[digest.Digest]unzippedLayer{}}
	done, err := i.run(ctx, from)
	i.lease.Release()
	i.dropUnnamed()
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = fmt.Errorf("the store has no room for all of it, so nothing was imported; see imagecache df, and make room: %w", err)
	}
	return done, err
}

// importing is one import.
type importing struct {
	r        *Registry
	o        ImportOptions
	lease    *layerstore.Lease
	members  map[string]member               // files that are blobs, by their path
	links    map[string]string               // from path to path
	small    map[string][]byte               // the files that tell what is what
	fresh    []digest.Digest                 // blobs that this import sealed
	bytes    int64                           // of those
	known    int                             // blobs that were here before
	unzipped map[digest.Digest]unzippedLayer // layers of docker save, by their digest as they came
	kept     map[digest.Digest]bool          // what got a name, with all that it needs
}

// member is a blob of the archive.
type member struct {
	digest digest.Digest
	size   int64
}

func (i *importing) run(ctx context.Context, from io.Reader) (Imported, error) {
	if err := i.read(ctx, from); err != nil {
		return Imported{}, err
	}
	images, err := i.images(ctx)
	if err != nil {
		return Imported{}, err
	}
	if len(images) == 0 {
		return Imported{}, badArchive("it names no image")
	}
	for _, image := range images {
		if err := i.check(image); err != nil {
			return Imported{}, err
		}
	}
	moved := i.moved(images)
	if err := i.name(ctx, images); err != nil {
		return Imported{}, err
	}
	for _, image := range images {
		for _, d := range image.plan.digests() {
			i.kept[d] = true
		}
	}
	done, err := i.told(ctx, images)
	done.Moved = moved
	return done, err
}

// moved are the tags that are about to mean something else: nobody beyond a gap
// could look it up at an upstream afterwards.
func (i *importing) moved(images []arrived) (all []Moved) {
	for _, image := range images {
		to := image.top.Descriptor.Digest
		before, err := i.r.cachedManifest(image.ref)
		if image.ref.Tag != "" && err == nil && before.Descriptor.Digest != to {
			all = append(all, Moved{image.ref.String(), before.Descriptor.Digest, to})
		}
	}
	return all
}

// arrived is an image of the archive that is here whole.
type arrived struct {
	ref    Reference // without a digest where it has a tag
	top    *Manifest
	plan   *plan
	wanted []string      // platforms
	of     digest.Digest // what it refers to; "" for an image of its own
}

// images finds what the archive names, with what refers to that, and sees to it
// that each is whole.
func (i *importing) images(ctx context.Context) ([]arrived, error) {
	all, err := i.named(ctx)
	if err != nil {
		return nil, err
	}
	plain, refer, err := i.part(all)
	if err != nil {
		return nil, err
	}
	if i.o.Name.Path != "" { // an image that the archive calls by two names gets this one
		seen := map[digest.Digest]bool{}
		plain = slices.DeleteFunc(plain, func(n named) bool {
			again := seen[n.desc.Digest]
			seen[n.desc.Digest] = true
			return again
		})
	}
	seen := map[string]digest.Digest{}
	images, err := i.arriving(ctx, plain, seen, len(plain))
	if err != nil {
		return nil, err
	}
	followed, left, err := i.follow(ctx, images, refer)
	if err != nil {
		return nil, err
	}
	// What refers to something that is not in the archive is an image like others.
	more, err := i.arriving(ctx, left, seen, len(plain)+len(left))
	return slices.Concat(images, more, followed), err
}

// arriving sees to it that images are whole. seen are those of before, by name; of all
// is how many there are in the archive.
func (i *importing) arriving(ctx context.Context, all []named, seen map[string]digest.Digest, ofAll int) (images []arrived, err error) {
	if i.o.Name.Path != "" && len(all) > 0 && ofAll != 1 {
		return nil, badArchive("it has %d images, so that one name cannot be meant; leave the name out, or bring one image", ofAll)
	}
	for _, n := range all {
		ref, err := i.reference(n)
		if err != nil {
			return nil, err
		}
		key := ref.String()
		if d, twice := seen[key]; twice && d == n.desc.Digest {
			continue
		} else if twice {
			return nil, badArchive("it says of two images that they are %s", key)
		}
		seen[key] = n.desc.Digest
		image, err := i.arrive(ctx, ref, n)
		if err != nil {
			return nil, i.r.about(key, err)
		}
		images = append(images, image)
	}
	return images, nil
}

// named finds out which form the archive has.
func (i *importing) named(ctx context.Context) ([]named, error) {
	if _, ok := i.small["index.json"]; ok {
		return i.namedInLayout(ctx)
	}
	if _, ok := i.small[dockerManifestFile]; ok {
		return i.namedByDocker(ctx)
	}
	return nil, badArchive("it has neither index.json, as an OCI layout has, nor manifest.json, as docker save writes")
}

// check refuses what may not get the name that it has.
func (i *importing) check(image arrived) error {
	if _, err := i.r.routes.upstream(image.ref.Registry); err != nil {
		return &Error{Code: CodeNameUnknown, Reference: image.ref.String(),
			Message: fmt.Sprintf("there is no upstream %q; give the image another name with --name, such as %s/%s", image.ref.Registry, LocalHome, image.ref.Path)}
	}
	if pin, pinned := i.r.pinned(image.ref); pinned && !i.o.Pin && pin.Digest != image.top.Descriptor.Digest {
		return &Error{Code: CodePinned, Reference: image.ref.String(), Message: "pinned at " + pin.Digest.String() + "; import with --pin to pin what is imported instead"}
	}
	return nil
}

// told is what the caller hears, after pinning.
func (i *importing) told(ctx context.Context, images []arrived) (Imported, error) {
	done := Imported{Images: []Image{}, Blobs: len(i.fresh), Bytes: i.bytes, Known: i.known}
	for _, image := range images {
		if image.of != "" {
			done.Referrers++
			continue
		}
		if i.o.Pin {
			ref := image.ref
			ref.Digest = image.top.Descriptor.Digest
			if _, err := i.r.Pin(ctx, ref, image.wanted, nil); err != nil {
				return done, err
			}
		}
		told, err := i.r.imageOf(image.ref, image.top, image.wanted)
		if err != nil {
			return done, err
		}
		done.Images = append(done.Images, told)
	}
	return done, nil
}

// dropUnnamed deletes what came and nothing needs. What refers to others goes
// before those, so it is tried until nothing goes any more.
func (i *importing) dropUnnamed() {
	left := slices.DeleteFunc(slices.Clone(i.fresh), func(d digest.Digest) bool { return i.kept[d] })
	for before := len(left) + 1; len(left) < before; {
		before = len(left)
		left = i.dropRound(left)
	}
}

func (i *importing) dropRound(digests []digest.Digest) (left []digest.Digest) {
	for _, d := range digests {
		err := i.r.store.Delete(d)
		switch {
		case errors.Is(err, layerstore.ErrNeeded):
			left = append(left, d)
		case err != nil && !errors.Is(err, layerstore.ErrNotFound):
			i.r.log.Warn("a blob of an import that came to nothing stays until room is wanted", "digest", d, "error", err)
		}
	}
	return left
}

func badArchive(format string, args ...any) *Error {
	return &Error{Code: CodeArchiveInvalid, Message: "the archive cannot be imported: " + fmt.Sprintf(format, args...)}
}

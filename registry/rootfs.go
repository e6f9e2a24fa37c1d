package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
)

// Layer is one layer of an image.
type Layer struct {
	specs.Descriptor               // as it is compressed: what a registry has
	DiffID           digest.Digest // of its uncompressed tar
	Chain            digest.Digest // the chain ID with this layer as the last (OCI image spec, "Layer ChainID")
}

// RootFS is what the root filesystem of an image for one platform is made of.
// It is shared: nobody may change it.
type RootFS struct {
	Repository Repository       // where its layers can be had
	Manifest   specs.Descriptor // of the image, not of an index
	Config     specs.Descriptor
	Platform   specs.Platform // as the config has it; zero where it says nothing
	Layers     []Layer        // base first
	// seenBy is the view of the caller whose own credential got the manifest; nil: ours will do, or none is needed.
	seenBy *view
}

// layersMost is how many layers an image may have to be indexed: as many as the
// kernel's overlay takes (OVL_MAX_STACK).
const layersMost = 500

// rootFSOf reads what an image is made of. The error tells why it has no root
// filesystem: it is an artifact of another kind, or its config does not agree
// with its manifest.
func rootFSOf(in Repository, m *Manifest, config []byte) (RootFS, error) {
	if !hasRootFS(m) {
		return RootFS{}, invalid("it is not an image with a root filesystem")
	}
	var doc specs.Image
	if err := json.Unmarshal(config, &doc); err != nil {
		return RootFS{}, invalid("its config cannot be read: %v", err)
	}
	diffs, layers := doc.RootFS.DiffIDs, m.parsed.layers
	if len(diffs) != len(layers) {
		return RootFS{}, invalid("its manifest has %d layers, its config %d", len(layers), len(diffs))
	}
	if len(layers) > layersMost {
		return RootFS{}, invalid("it has %d layers, more than the %d that can be put upon one another", len(layers), layersMost)
	}
	for _, d := range diffs {
		if _, err := ParseDigest(d.String()); err != nil {
			return RootFS{}, invalid("its config names %q, which is not a digest", d)
		}
	}
	image := RootFS{Repository: in, Manifest: m.Descriptor, Config: *m.parsed.config, Layers: make([]Layer, len(layers))}
	if doc.OS != "" {
		image.Platform = platforms.Normalize(doc.Platform)
	}
	chains := identity.ChainIDs(append([]digest.Digest{}, diffs...))
	for i, l := range layers {
		image.Layers[i] = Layer{Descriptor: l, DiffID: diffs[i], Chain: chains[i]}
	}
	return image, nil
}

// hasRootFS reports whether a manifest is of an image that can run, as far as it
// tells itself: signatures and charts are manifests too, some with the config of
// an image.
func hasRootFS(m *Manifest) bool {
	c := m.parsed.config
	if c == nil || c.MediaType != specs.MediaTypeImageConfig && c.MediaType != mediaTypeDockerConfig {
		return false
	}
	for _, l := range m.parsed.layers {
		if !strings.HasPrefix(l.MediaType, "application/vnd.oci.image.layer.") && !strings.HasPrefix(l.MediaType, "application/vnd.docker.image.rootfs.") {
			return false
		}
	}
	return true
}

// upTo is the image cut behind the layer that makes a chain; ok is false when none does.
func (i RootFS) upTo(chain digest.Digest) (cut RootFS, ok bool) {
	for n, l := range i.Layers {
		if l.Chain == chain {
			i.Layers = i.Layers[: n+1 : n+1]
			return i, true
		}
	}
	return RootFS{}, false
}

// RootFS tells what the root filesystem of a reference is made of, for one
// platform. The reference is answered as in a pull: a pin first, then a fresh
// tag, then upstream, and what is here where upstream cannot be asked; it takes
// no network when manifest and config are here. It is for the operator of this
// machine: upstream is asked with our own credential. Errors are *[Error], or
// the cause of ctx.
func (r *Registry) RootFS(ctx context.Context, ref Reference, platform specs.Platform) (RootFS, error) {
	image, err := r.rootFS(ctx, ref, platform)
	return image, r.about(ref.String(), err)
}

func (r *Registry) rootFS(ctx context.Context, ref Reference, platform specs.Platform) (RootFS, error) {
	v, err := r.operatorView(ref.Repository)
	if err != nil {
		return RootFS{}, err
	}
	return r.rootFSIn(ctx, v, ref, platform)
}

// RootFSAs is RootFS for somebody who may see less than the operator: what the
// caller of ctx may see (see [WithCaller]), as through the mirror. Where an
// upstream is open but refuses our credential, the caller's own is tried too.
func (r *Registry) RootFSAs(ctx context.Context, ref Reference, platform specs.Platform) (RootFS, error) {
	do := func(v view) (RootFS, Answer, error) {
		image, err := r.rootFSIn(ctx, v, ref, platform)
		return image, Answer{}, err
	}
	asked := wish{ref, subjectManifest}
	image, _, err := look(ctx, r, asked, do)
	caller := callerOf(ctx)
	if caller.Anonymous() || !closedToNobody(Answer{}, err) {
		return image, r.about(ref.String(), err)
	}
	v, failed := r.view(ref.Repository)
	if failed != nil || !v.open || v.upstream.home != nil {
		return image, r.about(ref.String(), err)
	}
	own, err := r.asCaller(v, caller)
	if err == nil {
		err = r.prove(ctx, own, asked, false)
	}
	if err == nil {
		image, _, err = do(own)
	}
	return image, r.about(ref.String(), told(asked, caller, err))
}

func (r *Registry) rootFSIn(ctx context.Context, v view, ref Reference, platform specs.Platform) (RootFS, error) {
	m, _, err := r.manifestIn(ctx, v, ref)
	if err != nil {
		return RootFS{}, err
	}
	r.store.Touch(m.Descriptor.Digest)
	for range depthMost {
		children, err := m.choose([]string{platforms.Format(platform)})
		if err != nil {
			return RootFS{}, err
		}
		if len(children) == 0 {
			break
		}
		if m, _, err = r.byDigest(ctx, v, children[0].Digest); err != nil {
			return RootFS{}, err
		}
	}
	image, err := r.readRootFS(ctx, v, m)
	if err == nil && image.Platform.OS != "" && !platforms.Only(platform).Match(image.Platform) {
		return RootFS{}, &Error{Code: CodeManifestUnknown,
			Message: fmt.Sprintf("the image is for %s, not for %s", platforms.Format(image.Platform), platforms.Format(platform))}
	}
	return image, err
}

// readRootFS reads an image's config, which it fetches where it is not here.
func (r *Registry) readRootFS(ctx context.Context, v view, m *Manifest) (RootFS, error) {
	if !hasRootFS(m) {
		return RootFS{}, invalid("it is not an image with a root filesystem")
	}
	b, err := r.openFor(ctx, v, *m.parsed.config)
	if err != nil {
		return RootFS{}, err
	}
	config, err := readSmall(b)
	if err != nil {
		return RootFS{}, err
	}
	return rootFSOf(v.repository, m, config)
}

// readSmall reads and closes a blob that is as small as a manifest should be.
func readSmall(b *layerstore.Blob) ([]byte, error) {
	defer b.Close()
	if b.Size() > maxManifest {
		return nil, invalid("the config has %d bytes, more than an image needs", b.Size())
	}
	return io.ReadAll(b)
}

// OpenLayer gives the bytes of a layer as it is compressed: from the disk, from
// its flight while it arrives, else from the upstream of the repository, asked
// with the operator's own credential. ctx governs the reads too; the caller
// closes the blob. As in all of a [layerstore.Blob], the end is reached only
// when the bytes are proven.
//
// No right is asked for: it is for this machine's own containerd, which showed
// one when it got manifest and config. A caller of ctx that has shown a
// credential has the upstream asked with that one, and an image that
// Options.Passed was told of with the one that got its manifest. Errors are as for Blob.
func (r *Registry) OpenLayer(ctx context.Context, image RootFS, l Layer) (*layerstore.Blob, error) {
	about := image.Repository.String() + "@" + l.Digest.String()
	v, err := r.operatorView(image.Repository)
	if err != nil {
		// Its upstream is set up no more. What is here can be had all the same.
		b, here := r.store.Fetch(ctx, l.Descriptor, nil)
		if errors.Is(here, layerstore.ErrNotFound) {
			return nil, r.about(about, err)
		}
		return b, here
	}
	if c := callerOf(ctx); !c.Anonymous() && v.upstream.home == nil {
		if v, err = r.asCaller(v, c); err != nil {
			return nil, r.about(about, err)
		}
	} else if image.seenBy != nil {
		v = *image.seenBy
	}
	b, err := r.openFor(ctx, v, l.Descriptor)
	if err != nil {
		return nil, r.about(about, err)
	}
	return b, nil
}

// openFor opens a blob for the operator. What upstream showed by it is noted,
// as it is when a caller asks.
func (r *Registry) openFor(ctx context.Context, v view, d specs.Descriptor) (*layerstore.Blob, error) {
	known := v.limitedFor(subjectBlob)
	if isForeign(d) {
		known = &Error{Code: CodeBlobUnknown, Message: "it is a foreign layer, which is fetched from elsewhere and never through a registry"}
	}
	var source layerstore.Source
	seen := &witness{}
	if known == nil { // otherwise it may be here, or on its way
		source, seen = v.witnessed(d.Digest)
	}
	b, err := r.store.Fetch(ctx, d, source)
	if errors.Is(err, layerstore.ErrNotFound) && known != nil {
		return nil, known
	}
	if seen.answered.Load() {
		r.background(func() { r.noteHold(v.repository, d.Digest, seen.public.Load()) })
	}
	return b, err
}

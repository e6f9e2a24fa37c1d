package registry

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
)

const (
	// nameAnnotation is how containerd and docker say in index.json what an
	// image is called. The specification's own, ref.name, has our name for it.
	nameAnnotation = "io.containerd.image.name"
	// platformsAnnotation tells which platforms of an index were exported, parted
	// by commas: the others' manifests are named in it and not in the archive.
	platformsAnnotation = "com.github.imagecache.platforms"

	// checksumRecord is the record of a tar header (POSIX pax) in which the digest of
	// a file stands whose name does not tell it. Other tools read past it.
	checksumRecord = "comment"

	ociLayout = `{"imageLayoutVersion":"` + specs.ImageLayoutVersion + `"}`
)

// ExportOptions say what is exported.
type ExportOptions struct {
	References []Reference
	// Platforms of each image; none: all that are here whole.
	Platforms []string
	// Have are blobs that the other side has, which are left out.
	Have []digest.Digest
	// NoReferrers leaves out what refers to the images: signatures, SBOMs and
	// the like, which otherwise go with them as far as they are here whole.
	NoReferrers bool
}

// Export is cached images as a tar of an OCI image layout, which docker load
// reads too: oci-layout, index.json, docker's manifest.json, manifests, blobs. The
// same images make the same bytes. What it needs is held against eviction until
// it is closed.
type Export struct {
	store *layerstore.Store
	lease *layerstore.Lease
	files []exportFile       // what tells what is what
	blobs []specs.Descriptor // manifests first, then the rest, by digest each
	log   func(d digest.Digest, err error)
}

// exportFile is a small file of an export.
type exportFile struct {
	name    string
	content []byte
}

// Export makes images ready to be sent. It asks nobody, but for layers that were
// dropped because they are here unpacked. What is not here whole is an error with
// [CodeIncomplete], what is not here at all one with [CodeManifestUnknown].
func (r *Registry) Export(ctx context.Context, o ExportOptions) (*Export, error) {
	e := &Export{store: r.store, lease: r.store.Lease(), log: func(d digest.Digest, err error) {
		r.log.Error("an export broke off", "digest", d, "error", err)
	}}
	if err := r.gather(ctx, e, o); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// gather finds out what goes into an export.
func (r *Registry) gather(ctx context.Context, e *Export, o ExportOptions) error {
	g := gathering{left: map[digest.Digest]bool{}}
	for _, d := range o.Have {
		g.left[d] = true
	}
	named := map[string]bool{}
	for _, ref := range o.References {
		name := ref.named()
		if named[name.String()] {
			continue
		}
		named[name.String()] = true
		p, wanted, err := r.toExport(ctx, e.lease, ref, o.Platforms)
		if err != nil {
			return err
		}
		g.image(p, name, wanted)
		if o.NoReferrers {
			continue
		}
		referring, err := r.attachedTo(ctx, e.lease, ref.Repository, p)
		if err != nil {
			return err
		}
		g.referring = append(g.referring, referring...)
	}
	return g.into(e)
}

// gathering is what goes into an export, as it is found.
type gathering struct {
	left             map[digest.Digest]bool // out
	tops             []specs.Descriptor
	docker           []dockerImage
	referring        []attached
	manifests, blobs []specs.Descriptor
}

func (g *gathering) image(p *plan, name Reference, wanted []string) {
	g.tops = append(g.tops, exported(p.manifests[0], name.String(), wanted))
	if line := dockerLine(p, name, g.left); line != nil {
		g.docker = append(g.docker, *line)
	}
	g.plan(p)
}

func (g *gathering) plan(p *plan) {
	for _, m := range p.manifests {
		g.manifests = append(g.manifests, m.Descriptor)
	}
	g.blobs = append(g.blobs, p.blobs...)
}

// into gives an export its files and blobs, in an order that does not depend on
// that of the references.
func (g *gathering) into(e *Export) error {
	for _, a := range g.referring {
		g.plan(a.plan)
	}
	for _, group := range [][]specs.Descriptor{g.manifests, g.blobs} {
		if err := e.add(group, g.left); err != nil {
			return err
		}
	}
	slices.SortFunc(g.tops, func(a, b specs.Descriptor) int {
		return strings.Compare(a.Annotations[specs.AnnotationRefName], b.Annotations[specs.AnnotationRefName])
	})
	index := specs.Index{MediaType: specs.MediaTypeImageIndex, Manifests: append(g.tops, referrerLines(g.referring)...)}
	index.SchemaVersion = 2
	e.files = []exportFile{{specs.ImageLayoutFile, []byte(ociLayout)}}
	if err := e.file(specs.ImageIndexFile, index); err != nil || len(g.docker) == 0 {
		return err
	}
	return e.file(dockerManifestFile, mergeDocker(g.docker))
}

// file adds a file of JSON. No import takes a longer one.
func (e *Export) file(name string, content any) error {
	encoded, err := json.Marshal(content)
	if err == nil && len(encoded) > maxManifest {
		err = &Error{Code: CodeUnsupported, Message: fmt.Sprintf("too many images for one archive: its %s would have more than %d bytes; export them in several", name, maxManifest)}
	}
	e.files = append(e.files, exportFile{name, encoded})
	return err
}

// exported is the line of index.json of an image.
func exported(top *Manifest, name string, wanted []string) specs.Descriptor {
	d := top.Descriptor
	d.Annotations = map[string]string{specs.AnnotationRefName: name, nameAnnotation: dockerName(name)}
	if isIndex(d.MediaType) && !slices.Contains(wanted, PlatformAll) {
		d.Annotations[platformsAnnotation] = strings.Join(wanted, ",")
	}
	return d
}

// toExport is all of an image for some platforms, and which these are.
func (r *Registry) toExport(ctx context.Context, lease *layerstore.Lease, ref Reference, given []string) (*plan, []string, error) {
	top, err := r.cachedManifest(ref)
	if err != nil {
		return nil, nil, err
	}
	lease.Hold(top.Descriptor.Digest)
	wanted, err := r.platformsToExport(top, given)
	if err != nil {
		return nil, nil, err
	}
	lacks := slices.DeleteFunc(r.lacksOf(ctx, top.Descriptor.Digest, wanted, r.here), func(l Lack) bool { return l.Kind == lackForeign })
	if lacks, err = r.fetchDropped(ctx, lacks); err != nil {
		return nil, nil, err
	}
	if len(lacks) > 0 {
		return nil, nil, &Error{Code: CodeIncomplete, Reference: ref.String(),
			Message: "not here whole, so it cannot be exported: " + someLacks(lacks) + "; fetch it with imagecache pull, or choose platforms that are here"}
	}
	p, err := r.localPlan(top, wanted)
	return p, wanted, err
}

// platformsToExport are the given ones, else all, else those that are here whole.
func (r *Registry) platformsToExport(top *Manifest, given []string) ([]string, error) {
	if len(given) > 0 {
		return CheckPlatforms(given)
	}
	p, err := r.localPlan(top, []string{PlatformAll})
	if err != nil {
		return nil, err
	}
	here := r.platformsHere(top, true).complete
	if !isIndex(top.Descriptor.MediaType) || r.holds(p).complete() || len(here) == 0 {
		return []string{PlatformAll}, nil
	}
	return CheckPlatforms(here)
}

// lacksTold is how many lacks an error names.
const lacksTold = 5

func someLacks(lacks []Lack) string {
	var told []string
	for _, l := range lacks[:min(len(lacks), lacksTold)] {
		told = append(told, l.String())
	}
	if more := len(lacks) - lacksTold; more > 0 {
		told = append(told, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(told, "; ")
}

// add adds blobs in the order of digests, each once, with the sizes that they
// have here.
func (e *Export) add(group []specs.Descriptor, had map[digest.Digest]bool) error {
	var digests []digest.Digest
	for _, d := range group {
		if !had[d.Digest] {
			digests = append(digests, d.Digest)
			had[d.Digest] = true
		}
	}
	sizes, err := e.store.Sizes(digests)
	if err != nil {
		return err
	}
	slices.Sort(digests)
	for _, d := range digests {
		size, ok := sizes[d]
		if !ok {
			return fmt.Errorf("%s: %w", d, layerstore.ErrNotFound)
		}
		e.blobs = append(e.blobs, specs.Descriptor{Digest: d, Size: size})
	}
	return nil
}

// Blobs are what is sent beside index.json: digests and sizes in bytes.
func (e *Export) Blobs() []Sought {
	list := []Sought{}
	for _, b := range e.blobs {
		list = append(list, Sought{b.Digest, b.Size})
	}
	return list
}

// Close lets go of what was held.
func (e *Export) Close() { e.lease.Release() }

// tarBlock is what everything in a tar is padded to, in bytes; its end is two
// blocks of zeros.
const tarBlock = 512

// Size is how many bytes Send writes.
func (e *Export) Size() (int64, error) {
	size := int64(2 * tarBlock)
	for _, h := range e.headers() {
		var header counter
		if err := tar.NewWriter(&header).WriteHeader(h); err != nil {
			return 0, err
		}
		size += int64(header) + (h.Size+tarBlock-1)/tarBlock*tarBlock
	}
	return size, nil
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// headers are those of all that is in the tar, in order.
func (e *Export) headers() []*tar.Header {
	var all []*tar.Header
	for _, f := range e.files {
		h := tarFile(f.name, int64(len(f.content)))
		h.PAXRecords = map[string]string{checksumRecord: digest.FromBytes(f.content).String()}
		all = append(all, h)
	}
	for _, b := range e.blobs {
		all = append(all, tarFile(blobPath(b.Digest), b.Size))
	}
	return all
}

func blobPath(d digest.Digest) string {
	return specs.ImageBlobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
}

// tarFile is a header without anything that differs between two exports.
func tarFile(name string, size int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)}
}

// Send writes the tar. Each blob is hashed on the way, and its last byte is
// written when its digest was right: what Send has not returned nil for cannot be
// taken for whole. A blob that proves wrong is a *layerstore.RotError, and is
// taken out of the store.
func (e *Export) Send(ctx context.Context, to io.Writer) error {
	out := tar.NewWriter(to)
	headers := e.headers()
	for i, f := range e.files {
		if err := out.WriteHeader(headers[i]); err != nil {
			return err
		}
		if _, err := out.Write(f.content); err != nil {
			return err
		}
	}
	for i, b := range e.blobs {
		if err := out.WriteHeader(headers[len(e.files)+i]); err != nil {
			return err
		}
		if err := e.sendBlob(ctx, out, b); err != nil {
			return err
		}
	}
	return out.Close()
}

// exportBuffer is what one export holds in memory, in bytes.
const exportBuffer = 256 << 10

func (e *Export) sendBlob(ctx context.Context, to io.Writer, want specs.Descriptor) error {
	b, err := e.store.Fetch(ctx, want, nil)
	if err != nil {
		return err
	}
	defer b.Close()
	h := want.Digest.Algorithm().Hash()
	err = copyProven(to, b, want, h)
	var wrong *layerstore.DigestError
	if errors.As(err, &wrong) {
		err = errors.Join(&layerstore.RotError{Digest: want.Digest, Err: wrong}, e.store.Quarantine(want.Digest))
	}
	var rot *layerstore.RotError
	if errors.As(err, &rot) {
		e.log(want.Digest, err)
	}
	return err
}

// copyProven copies a blob and withholds its last byte until its digest is right.
func copyProven(to io.Writer, from io.Reader, want specs.Descriptor, h hash.Hash) error {
	if want.Size > 0 {
		n, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(h, to)}, io.LimitReader(from, want.Size-1), make([]byte, exportBuffer))
		if err == nil && n < want.Size-1 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	last := make([]byte, min(want.Size, 1))
	if _, err := io.ReadFull(from, last); err != nil {
		return err
	}
	h.Write(last)
	if got := digest.NewDigest(want.Digest.Algorithm(), h); got != want.Digest {
		return &layerstore.DigestError{Want: want.Digest, Got: got}
	}
	_, err := to.Write(last)
	return err
}

package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of docker's image manifests, version 2, schema 2.
const (
	mediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	mediaTypeDockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	mediaTypeDockerSchema1  = "application/vnd.docker.distribution.manifest.v1+" // json or prettyjws
	mediaTypeDockerConfig   = "application/vnd.docker.container.image.v1+json"
)

// mediaTypeBuildCache is what buildkit tells of the layers of a build's cache.
const mediaTypeBuildCache = "application/vnd.buildkit.cacheconfig.v0"

func isIndex(mediaType string) bool {
	return mediaType == specs.MediaTypeImageIndex || mediaType == mediaTypeDockerIndex
}

func isImage(mediaType string) bool {
	return mediaType == specs.MediaTypeImageManifest || mediaType == mediaTypeDockerManifest
}

// isContent reports whether a child of an index is a blob: buildkit's cache of a
// build is an index of layers, unless it is told to write a manifest.
func isContent(child specs.Descriptor) bool {
	return child.MediaType == mediaTypeBuildCache || strings.HasPrefix(child.MediaType, "application/vnd.oci.image.layer.") ||
		strings.HasPrefix(child.MediaType, "application/vnd.docker.image.rootfs.")
}

// undistributed are layers that are not to be fetched from a registry: OCI
// image spec, "Non-Distributable Layers", and docker's foreign layers.
var undistributed = []string{
	"application/vnd.oci.image.layer.nondistributable.v1.tar",
	"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
	"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
	"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
}

// parsed is what a manifest or an index names.
type parsed struct {
	mediaType string
	config    *specs.Descriptor
	layers    []specs.Descriptor
	manifests []specs.Descriptor // children of an index, which see isContent
	notes     map[string]string  // annotations
}

// document has the fields of both kinds, to see which one a body is.
type document struct {
	SchemaVersion int                `json:"schemaVersion"`
	MediaType     string             `json:"mediaType"`
	Config        *specs.Descriptor  `json:"config"`
	Layers        []specs.Descriptor `json:"layers"`
	Manifests     children           `json:"manifests"`
	Annotations   map[string]string  `json:"annotations"`
}

// children are those of an index. A null is what some clients write for none.
type children struct {
	list []specs.Descriptor
	null bool
}

func (c *children) UnmarshalJSON(b []byte) error {
	c.null = string(b) == "null"
	err := json.Unmarshal(b, &c.list)
	if field := new(json.UnmarshalTypeError); errors.As(err, &field) {
		field.Field = strings.TrimSuffix("manifests."+field.Field, ".") // which it cannot know
	}
	return err
}

// parseManifest reads a manifest or an index that came as announced, the media
// type of the answer. Refused with [CodeManifestInvalid] is what could be read
// as two things (CVE-2021-41190): a body with both layers and manifests, or one
// whose own media type says otherwise than the answer's.
func parseManifest(announced string, content []byte) (parsed, error) {
	var doc document
	if err := json.Unmarshal(content, &doc); err != nil {
		return parsed{}, notJSON(err)
	}
	if doc.SchemaVersion == 1 || strings.HasPrefix(announced, mediaTypeDockerSchema1) {
		return parsed{}, invalid("the manifest is of docker's schema 1, which clients no longer take")
	}
	mediaType, err := doc.mediaType(announced)
	if err != nil {
		return parsed{}, err
	}
	p := parsed{mediaType: mediaType, config: doc.Config, layers: doc.Layers, manifests: doc.Manifests.list, notes: doc.Annotations}
	return p, p.check()
}

// mediaType is what a document is: what it was announced as, where that is a
// kind we know; else what it says of itself; else what its content shows, for
// registries exist that send manifests as text/plain.
func (d document) mediaType(announced string) (string, error) {
	image := d.Config != nil || d.Layers != nil
	index := d.Manifests.list != nil || d.Manifests.null && !image
	known := isIndex(announced) || isImage(announced)
	if image && index {
		return "", invalid("the manifest is both a manifest and an index")
	}
	if !image && !index {
		return "", invalid("what was sent has neither layers nor manifests")
	}
	if plain, _, err := mime.ParseMediaType(d.MediaType); d.MediaType != "" && (err != nil || plain != d.MediaType) {
		return "", invalid("the manifest's mediaType is not a media type")
	}
	if known && d.MediaType != "" && d.MediaType != announced {
		return "", invalid("the manifest says that it is %s, its Content-Type that it is %s", d.MediaType, announced)
	}
	mediaType := announced
	if !known {
		mediaType = d.ownMediaType()
	}
	if isIndex(mediaType) != index {
		return "", invalid("the manifest is called %q, its content is of the other kind", mediaType)
	}
	return mediaType, nil
}

// ownMediaType is what a body says of itself, or the kind that its content shows.
func (d document) ownMediaType() string {
	switch {
	case d.MediaType != "":
		return d.MediaType
	case d.Config == nil && d.Layers == nil:
		return specs.MediaTypeImageIndex
	case d.Config != nil && d.Config.MediaType == mediaTypeDockerConfig:
		return mediaTypeDockerManifest
	}
	return specs.MediaTypeImageManifest
}

// check refuses a manifest that names what cannot be fetched.
func (p parsed) check() error {
	for _, d := range p.names() {
		if _, err := ParseDigest(d.Digest.String()); err != nil {
			return invalid("the manifest names %s, which is no digest of sha256 or sha512", quoted(d.Digest.String()))
		}
		if d.Size < 0 {
			return invalid("the manifest says that %s has %d bytes", d.Digest, d.Size)
		}
	}
	return nil
}

// names are all descriptors in it: config and layers, or child manifests.
func (p parsed) names() []specs.Descriptor {
	var all []specs.Descriptor
	if p.config != nil {
		all = append(all, *p.config)
	}
	return append(append(all, p.layers...), p.manifests...)
}

func (p parsed) digests() []digest.Digest {
	var all []digest.Digest
	for _, d := range p.names() {
		all = append(all, d.Digest)
	}
	return all
}

// images are the children of an index that are manifests.
func (p parsed) images() []specs.Descriptor {
	return slices.DeleteFunc(slices.Clone(p.manifests), isContent)
}

// contents are the layers of an image, or the blobs among an index's children.
func (p parsed) contents() []specs.Descriptor {
	children := slices.DeleteFunc(slices.Clone(p.manifests), func(d specs.Descriptor) bool { return !isContent(d) })
	return append(children, p.layers...)
}

// blobs are the config and the contents that a registry has.
func (p parsed) blobs() []specs.Descriptor {
	all := p.contents()
	if p.config != nil {
		all = slices.Insert(all, 0, *p.config)
	}
	return slices.DeleteFunc(all, isForeign)
}

func isForeign(d specs.Descriptor) bool { return slices.Contains(undistributed, d.MediaType) }

func invalid(format string, args ...any) *Error {
	return &Error{Code: CodeManifestInvalid, Message: fmt.Sprintf(format, args...)}
}

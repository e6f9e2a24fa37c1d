package registry

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of docker's image manifests, version 2, schema 2.
const (
	mediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	mediaTypeDockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	mediaTypeDockerConfig   = "application/vnd.docker.container.image.v1+json"
)

func isIndex(mediaType string) bool {
	return mediaType == specs.MediaTypeImageIndex || mediaType == mediaTypeDockerIndex
}

func isImage(mediaType string) bool {
	return mediaType == specs.MediaTypeImageManifest || mediaType == mediaTypeDockerManifest
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
	manifests []specs.Descriptor // of an index
	notes     map[string]string  // annotations
}

// document has the fields of both kinds, to see which one a body is.
type document struct {
	SchemaVersion int                `json:"schemaVersion"`
	MediaType     string             `json:"mediaType"`
	Config        *specs.Descriptor  `json:"config"`
	Layers        []specs.Descriptor `json:"layers"`
	Manifests     []specs.Descriptor `json:"manifests"`
	Annotations   map[string]string  `json:"annotations"`
}

// parseManifest reads a manifest or an index that came as announced, the
// Content-Type of the answer. Refused with [CodeManifestInvalid] is what could
// be read as two things (CVE-2021-41190): a body with both layers and
// manifests, or one whose own media type says otherwise than the answer's.
func parseManifest(announced string, content []byte) (parsed, error) {
	var doc document
	if err := json.Unmarshal(content, &doc); err != nil {
		return parsed{}, invalid("the manifest is not JSON: %v", err)
	}
	if doc.SchemaVersion == 1 {
		return parsed{}, invalid("the manifest is of docker's schema 1, which containerd has dropped too: push the image anew")
	}
	image, index := doc.Config != nil || doc.Layers != nil, doc.Manifests != nil
	if image && index {
		return parsed{}, invalid("the manifest has both layers and manifests, so it could be read as two things")
	}
	if !image && !index {
		return parsed{}, invalid("the body is neither a manifest nor an index")
	}
	known := isIndex(announced) || isImage(announced)
	if known && doc.MediaType != "" && doc.MediaType != announced {
		return parsed{}, invalid("the manifest calls itself %q and was sent as %q", doc.MediaType, announced)
	}
	mediaType := announced
	if !known {
		mediaType = doc.ownMediaType()
	}
	if isIndex(mediaType) != index {
		return parsed{}, invalid("the manifest is called %q, its content is of the other kind", mediaType)
	}
	p := parsed{mediaType: mediaType, config: doc.Config, layers: doc.Layers, manifests: doc.Manifests, notes: doc.Annotations}
	return p, p.check()
}

// ownMediaType is what a body says of itself, or the kind that its content
// shows: registries exist that send manifests as text/plain.
func (d document) ownMediaType() string {
	switch {
	case d.MediaType != "":
		return d.MediaType
	case d.Manifests != nil:
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
			return invalid("the manifest names %q, which is not a digest", d.Digest)
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

// blobs are the config and the layers that a registry has.
func (p parsed) blobs() []specs.Descriptor {
	return slices.DeleteFunc(p.names(), func(d specs.Descriptor) bool {
		return slices.Contains(undistributed, d.MediaType)
	})
}

func invalid(format string, args ...any) *Error {
	return &Error{Code: CodeManifestInvalid, Message: fmt.Sprintf(format, args...)}
}

package registrytest

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// AddReferrer stores an artifact of one layer that refers to a manifest of the
// repository: a signature, an SBOM.
func (r *Registry) AddReferrer(repository string, subject specs.Descriptor, artifactType string, content []byte) specs.Descriptor {
	layer := specs.Descriptor{MediaType: "application/octet-stream", Digest: r.AddBlob(repository, content), Size: int64(len(content))}
	r.AddBlob(repository, specs.DescriptorEmptyJSON.Data)
	empty := specs.DescriptorEmptyJSON
	empty.Data = nil
	m := specs.Manifest{MediaType: specs.MediaTypeImageManifest, ArtifactType: artifactType, Config: empty,
		Layers: []specs.Descriptor{layer}, Subject: &specs.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
		Annotations: map[string]string{"org.example.kind": artifactType}}
	m.SchemaVersion = 2
	d := r.AddManifest(repository, specs.MediaTypeImageManifest, encode(m))
	d.ArtifactType, d.Annotations = artifactType, m.Annotations
	return d
}

// listReferrers answers the referrers API, from what the manifests say.
func (r *Registry) listReferrers(answer *reply, repository string, of digest.Digest) {
	if !r.options.Referrers {
		answer.refuse(http.StatusNotFound, "UNSUPPORTED", "no referrers here")
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	index := specs.Index{MediaType: specs.MediaTypeImageIndex, Manifests: []specs.Descriptor{}}
	index.SchemaVersion = 2
	for d, m := range r.manifest[repository] {
		var doc specs.Manifest
		if json.Unmarshal(m.bytes, &doc) != nil || doc.Subject == nil || doc.Subject.Digest != of {
			continue
		}
		index.Manifests = append(index.Manifests, specs.Descriptor{MediaType: m.mediaType, Digest: d, Size: int64(len(m.bytes)),
			ArtifactType: doc.ArtifactType, Annotations: doc.Annotations})
	}
	slices.SortFunc(index.Manifests, func(a, b specs.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	answer.fill(specs.MediaTypeImageIndex, "", encode(index))
}

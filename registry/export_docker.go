package registry

import (
	"cmp"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	dockerref "github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// dockerManifestFile is where docker save and docker load have what an OCI layout
// has in index.json.
const dockerManifestFile = "manifest.json"

// dockerName is what docker and Kubernetes look for when they are asked for a name:
// local/app:v1 is docker.io/local/app:v1 for them.
func dockerName(name string) string {
	ref, err := dockerref.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return ref.String()
}

// dockerLine is how manifest.json tells of an image, for docker load, which knows
// no OCI layout before version 25 and afterwards only in one of its two stores. It
// points to the blobs of the layout. Docker takes one platform: this machine's,
// if it is exported, else the first. It is nil for what docker cannot load:
// what is no image, and what lacks in the archive because the other side has it.
func dockerLine(p *plan, name Reference, left map[digest.Digest]bool) *dockerImage {
	m := p.imageForDocker()
	if m == nil || left[m.parsed.config.Digest] {
		return nil
	}
	line := &dockerImage{Config: blobPath(m.parsed.config.Digest), RepoTags: []string{}, Layers: []string{}}
	if name.Tag != "" {
		line.RepoTags = append(line.RepoTags, name.String())
	}
	for _, l := range m.parsed.layers {
		if left[l.Digest] || isForeign(l) {
			return nil
		}
		line.Layers = append(line.Layers, blobPath(l.Digest))
	}
	return line
}

// imageForDocker chooses among the images of a plan; nil where there is none.
func (p *plan) imageForDocker() *Manifest {
	images := map[digest.Digest]*Manifest{}
	var children []specs.Descriptor
	for _, m := range p.manifests {
		if c := m.parsed.config; c != nil && isImage(m.Descriptor.MediaType) && (c.MediaType == specs.MediaTypeImageConfig || c.MediaType == mediaTypeDockerConfig) {
			images[m.Descriptor.Digest] = m
		}
		children = append(children, m.parsed.manifests...)
	}
	if top := p.manifests[0]; !isIndex(top.Descriptor.MediaType) {
		return images[top.Descriptor.Digest]
	}
	children = slices.DeleteFunc(children, func(c specs.Descriptor) bool {
		return images[c.Digest] == nil || c.Platform != nil && c.Platform.OS == "unknown" // an attestation
	})
	if best := bestMatch(children, platforms.Default()); best != nil {
		return images[best.Digest]
	}
	if len(children) == 0 {
		return nil
	}
	return images[children[0].Digest]
}

// mergeDocker joins lines of the same image, which has several names, and orders them.
func mergeDocker(lines []dockerImage) (merged []dockerImage) {
	slices.SortFunc(lines, func(a, b dockerImage) int {
		return cmp.Or(slices.Compare(a.RepoTags, b.RepoTags), strings.Compare(a.Config, b.Config))
	})
	for _, l := range lines {
		same := slices.IndexFunc(merged, func(m dockerImage) bool { return m.Config == l.Config && slices.Equal(m.Layers, l.Layers) })
		if same < 0 {
			merged = append(merged, l)
			continue
		}
		merged[same].RepoTags = append(merged[same].RepoTags, l.RepoTags...)
	}
	return merged
}

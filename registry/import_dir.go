package registry

import (
	"context"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// dirVersionFile stands in what skopeo writes as dir: and podman save as docker-dir.
const dirVersionFile = "version"

// namedInDir takes the form of skopeo's dir: transport: manifest.json is the image's manifest
// itself, byte for byte as its registry had it, blobs beside it are named after their digests, and nothing
// says what the image is called.
func (i *importing) namedInDir(ctx context.Context) ([]named, error) {
	content := i.small[dockerManifestFile]
	p, err := parseManifest("", content)
	if err != nil {
		return nil, badArchive("manifest.json: %v", err)
	}
	desc := specs.Descriptor{MediaType: p.mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	return []named{{desc: desc}}, i.keep(ctx, desc, content)
}

package api

import (
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/registry"
)

// TestSparseImagesWhereTheHomeTakesThem: an image without one of its layers is kept as any other is, the layer may come later, and nobody gets by
// it what another repository has.
func TestSparseImagesWhereTheHomeTakesThem(t *testing.T) {
	h := &home{t: t, folder: t.TempDir(), upstreams: []registry.UpstreamOptions{{Name: registry.LocalHome, Sparse: true}}}
	h.start()
	t.Cleanup(h.stop)
	config, layer, elsewhere := h.pushBlob("local/app", "{}"), "a layer", h.pushBlob("local/other", "of another")
	m := specs.Manifest{MediaType: specs.MediaTypeImageManifest, Config: config, Layers: []specs.Descriptor{
		{MediaType: specs.MediaTypeImageLayer, Digest: digest.FromString(layer), Size: int64(len(layer))}, elsewhere}}
	m.SchemaVersion = 2
	content := encode(t, m)
	res, _ := h.want(201, "PUT", "local/app/manifests/v1", content, "Content-Type", m.MediaType)
	wantHeader(t, res, "Warning", `299 - "2 of the blobs that this manifest names are not in the repository"`)
	h.wantWithout(content, elsewhere.Digest, m.Layers[0].Digest)

	h.stop()
	h.start()
	h.pushBlob("local/app", layer)
	h.wantWithout(content, elsewhere.Digest)
	res, _ = h.want(201, "PUT", "local/app/manifests/v1", content, "Content-Type", m.MediaType)
	wantHeader(t, res, "Warning", `299 - "1 of the blobs that this manifest names are not in the repository"`)

	m.Layers[0].Size++
	res, body := h.do("PUT", "local/app/manifests/v1", encode(t, m), "Content-Type", m.MediaType)
	wantError(t, res, body, 400, "MANIFEST_INVALID")
}

// wantWithout pulls local/app:v1, and none of the blobs that are not there.
func (h *home) wantWithout(content string, absent ...digest.Digest) {
	h.t.Helper()
	if _, got := h.want(200, "GET", "local/app/manifests/v1", ""); got != content {
		h.t.Errorf("the manifest came back as %q", got)
	}
	for _, d := range absent {
		h.want(404, "HEAD", "local/app/blobs/"+d.String(), "")
		h.want(404, "GET", "local/app/blobs/"+d.String(), "")
	}
}

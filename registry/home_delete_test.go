package registry

import (
	"encoding/json"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// TestNothingThatAPinNeedsIsDeletedFromAHome: neither the manifest of a platform
// nor a layer, until it is unpinned.
func TestNothingThatAPinNeedsIsDeletedFromAHome(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	image, err := c.pushImage("local/app:amd64", "a layer")
	if err != nil {
		t.Fatal(err)
	}
	index := specs.Index{MediaType: specs.MediaTypeImageIndex, Manifests: []specs.Descriptor{{MediaType: specs.MediaTypeImageManifest, Digest: image,
		Size: c.manifestSize(image), Platform: &specs.Platform{OS: "linux", Architecture: "amd64"}}}}
	index.SchemaVersion = 2
	content, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	all := reference(t, "local/app:v1")
	if _, err := c.PutManifest(t.Context(), all, index.MediaType, content); err != nil {
		t.Fatal(err)
	}
	layer, unneeded := digest.FromString("a layer"), c.pushBlob(atHome, "another").Digest
	if _, err := c.Pin(t.Context(), all, []string{"linux/amd64"}, func(Progress) {}); err != nil {
		t.Fatal(err)
	}
	wantCode(t, c.DeleteManifest(t.Context(), atHome, image), CodePinned)
	wantCode(t, c.DeleteBlob(t.Context(), atHome, layer), CodePinned)
	for _, err := range []error{c.DeleteBlob(t.Context(), atHome, unneeded), c.Unpin(t.Context(), all),
		c.DeleteManifest(t.Context(), atHome, image), c.DeleteBlob(t.Context(), atHome, layer)} {
		if err != nil {
			t.Error(err)
		}
	}
}

func (c *cache) manifestSize(d digest.Digest) int64 {
	c.t.Helper()
	info, err := c.store.Stat(d)
	if err != nil {
		c.t.Fatal(err)
	}
	return info.Size
}

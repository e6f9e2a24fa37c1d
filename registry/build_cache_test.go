package registry

import (
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// pushBuildCache pushes what buildkit's --export-cache writes with
// image-manifest=false: an index whose children are layers and what tells of
// them. It gives the digests of both.
func (c *cache) pushBuildCache(ref string) (index *Manifest, children []digest.Digest) {
	c.t.Helper()
	to := reference(c.t, ref)
	layer, told := c.pushBlob(to.Repository, "a layer of a build"), c.pushBlob(to.Repository, `{"layers":[]}`)
	layer.MediaType, told.MediaType = specs.MediaTypeImageLayerGzip, mediaTypeBuildCache
	cache := specs.Index{MediaType: specs.MediaTypeImageIndex, Manifests: []specs.Descriptor{layer, told}}
	cache.SchemaVersion = 2
	pushed, err := c.PutManifest(c.t.Context(), to, cache.MediaType, mustJSON(c.t, cache))
	if err != nil || len(pushed.Warnings) > 0 {
		c.t.Fatalf("%v, warnings %q", err, pushed.Warnings)
	}
	index, _ = c.get(ref)
	return index, []digest.Digest{layer.Digest, told.Digest}
}

func TestABuildCacheIsAnIndexOfBlobs(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	index, children := c.pushBuildCache("local/cache:v1")
	ref := reference(t, "local/cache:v1")
	size := index.Descriptor.Size + int64(len("a layer of a build")+len(`{"layers":[]}`))

	images, err := c.Images(t.Context())
	if err != nil || len(images) != 1 || !images[0].Complete || images[0].Want != 3 || images[0].Size != size {
		t.Errorf("listed as %+v, %v; want it complete, 3 of 3, %d bytes", images, err, size)
	}
	told, err := c.Inspect(t.Context(), ref)
	if err != nil || len(told.Manifests) != 1 || len(told.Manifests[0].Layers) != 2 || !told.Manifests[0].Layers[0].Here {
		t.Errorf("inspected as %+v, %v", told.Manifests, err)
	}
	pin, err := c.Pin(t.Context(), ref, []string{"linux/amd64"}, nil)
	if err != nil || !pin.Complete {
		t.Errorf("pinned as %+v, %v", pin, err)
	}

	archive := c.exported(ExportOptions{References: []Reference{ref}})
	target := gap(t)
	if done, err := target.imported(archive, ImportOptions{}); err != nil || done.Blobs != 3 {
		t.Errorf("imported %+v, %v", done, err)
	}
	target.clock.advance(unnamedKept + time.Minute)
	if _, err := target.Collect(t.Context(), false); err != nil {
		t.Error(err)
	}
	for _, d := range children {
		if _, _, err := target.BlobInfo(t.Context(), ref.Repository, d); err != nil {
			t.Errorf("%s beyond the gap: %v", d, err)
		}
	}
	target.expect("local/cache:v1", index.Descriptor.Digest, OutcomeHit)
}

func TestABuildCacheThatLacksALayerIsNotExported(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	index, children := c.pushBuildCache("local/cache:v1")
	c.lose(children[0])
	_, err := c.Export(t.Context(), ExportOptions{References: []Reference{reference(t, "local/cache:v1")}})
	wantCode(t, err, CodeIncomplete)
	lacks := c.lacksOf(t.Context(), index.Descriptor.Digest, []string{"linux/amd64"}, c.here)
	if !slices.ContainsFunc(lacks, func(l Lack) bool { return l.Kind == "layer" && l.Digest == children[0].String() }) {
		t.Errorf("it lacks %v, not the layer that is gone", lacks)
	}
}

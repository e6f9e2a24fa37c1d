package registry

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// sign stores what cosign stores beside an image: the config of an image, and a
// payload that is no layer.
func sign(up *registrytest.Registry, repository string, of digest.Digest, suffix, payload string) (manifest, blob digest.Digest) {
	m := specs.Manifest{MediaType: specs.MediaTypeImageManifest}
	m.SchemaVersion = 2
	config := []byte(`{"architecture":"","os":"","rootfs":{"type":"layers","diff_ids":["` + digest.FromString(payload).String() + `"]}}`)
	m.Config = specs.Descriptor{MediaType: specs.MediaTypeImageConfig, Digest: up.AddBlob(repository, config), Size: int64(len(config))}
	blob = up.AddBlob(repository, []byte(payload))
	m.Layers = []specs.Descriptor{{MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", Digest: blob, Size: int64(len(payload)),
		Annotations: map[string]string{"dev.cosignproject.cosign/signature": "c2ln"}}}
	content, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	manifest = up.AddManifest(repository, specs.MediaTypeImageManifest, content).Digest
	up.Tag(repository, cosignTag(of, suffix), manifest)
	return manifest, blob
}

// TestWhatCosignsTagsNameStaysWithAPin, of the index and of the image for this
// platform, and is answered while upstream is away.
func TestWhatCosignsTagsNameStaysWithAPin(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{Referrers: true})
	image := up.AddImageFor("team/app", "", amd64, []byte("one"))
	index, _ := up.AddIndex("team/app", "v1", image)
	signature, payload := sign(up, "team/app", index.Digest, ".sig", "signed index")
	sbom, _ := sign(up, "team/app", image.Digest, ".sbom", "sbom of the image")
	c := newCache(t, up, forAMD64)
	c.pin(ref)
	eventually(t, func() bool { p := c.pinNow(ref); return p.ReferrersWant == 2 && p.Referrers == 2 })
	moved, _ := sign(up, "team/app", index.Digest, ".sig", "signed twice")
	c.clock.advance(3 * lookEvery)
	nudge(c.desired.wake)
	eventually(t, func() bool { return c.pinNow(ref).Referrers == 3 })
	eventually(t, func() bool {
		row, err := c.state.tag("registry.test/team/app:" + cosignTag(index.Digest, ".sig"))
		return err == nil && row.Digest == moved
	})

	up.Stop()
	c.restart()
	c.clock.advance(2 * c.options.TagTTL)
	c.free.Store(0) // all that no pin keeps goes
	if _, err := c.Collect(context.Background(), false); err != nil {
		t.Fatal(err)
	}
	c.expect("registry.test/team/app:"+cosignTag(index.Digest, ".sig"), moved, OutcomeStale)
	c.expect("registry.test/team/app:"+cosignTag(image.Digest, ".sbom"), sbom, OutcomeStale)
	c.expect("registry.test/team/app@"+signature.String(), signature, OutcomeHit)
	if got := c.read("registry.test/team/app", payload); string(got) != "signed index" {
		t.Errorf("payload is %q", got)
	}
	for _, d := range []digest.Digest{index.Digest, image.Digest} {
		page, _, err := c.Referrers(context.Background(), reference(t, ref).Repository, d, ReferrersQuery{})
		if err == nil && len(page.Manifests) > 0 {
			t.Errorf("what has no subject is listed as a referrer: %+v", page.Manifests)
		}
	}
}

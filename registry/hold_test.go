package registry

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// lure publishes, in lure/bait, an image and an index that name what is private.
func lure(t *testing.T, up *registrytest.Registry, secret registrytest.Image) (named []digest.Digest) {
	t.Helper()
	up.Public("lure/bait")
	bait := up.AddImage("lure/bait", "", []byte("bait"))
	foreign := secret.Config
	foreign.MediaType, foreign.URLs = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", []string{"https://elsewhere.test/layer"}
	m := specs.Manifest{MediaType: specs.MediaTypeImageManifest, Config: bait.Config, Layers: append([]specs.Descriptor{foreign}, secret.Layers...)}
	m.SchemaVersion = 2
	encoded, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	d := up.AddManifest("lure/bait", m.MediaType, encoded)
	up.Tag("lure/bait", "image", d.Digest)
	index, _ := up.AddIndex("lure/bait", "index", secret)
	return []digest.Digest{d.Digest, index.Digest}
}

// noted waits until it is noted that digests are in a repository.
func (c *cache) noted(in Repository, all ...digest.Digest) {
	c.t.Helper()
	eventually(c.t, func() bool {
		for _, d := range all {
			if c.how(in, d) == "" {
				return false
			}
		}
		return true
	})
}

// how is what is noted of a digest in a repository.
func (c *cache) how(in Repository, d digest.Digest) string {
	c.t.Helper()
	how, err := c.state.hold(in, d)
	if err != nil {
		c.t.Fatal(err)
	}
	return how
}

func TestToNameADigestGivesNoRightToIt(t *testing.T) {
	p := newParted(t, registrytest.AuthBasic, false)
	other := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBasic})
	lures := map[string][]digest.Digest{
		"registry.test": lure(t, p.up, p.image),
		"other.test":    lure(t, other, p.image),
	}
	p.stop()
	p.more = []UpstreamOptions{{Name: "other.test", URL: other.URL(), Access: AccessProven}}
	p.start()
	p.served("the owner", ann)
	p.settled(p.image.Digest, p.image.Config.Digest, p.image.Layers[0].Digest)
	for name, manifests := range lures {
		in := Repository{Registry: name, Path: "lure/bait"}
		p.expect(in.String()+":image", manifests[0], OutcomeMiss)
		p.expect(in.String()+":index", manifests[1], OutcomeMiss)
		p.noted(in, manifests...)
		p.closed(name, in)
	}
	p.restart()
	other.Stop()
	p.up.Stop()
	for name := range lures {
		p.closed(name+" is dead", Repository{Registry: name, Path: "lure/bait"})
	}
	p.served("the owner, upstream dead", ann)
}

// closed checks that nothing of the image is given to anybody in a repository.
func (p *parted) closed(when string, in Repository) {
	p.t.Helper()
	for what, d := range map[string]digest.Digest{"layer": p.image.Layers[0].Digest, "foreign layer": p.image.Config.Digest} {
		if err := p.read(p.t.Context(), in, d, 0, 1); err == nil {
			p.t.Errorf("%s: the %s is given", when, what)
		}
		if _, _, err := p.BlobInfo(p.t.Context(), in, d); err == nil {
			p.t.Errorf("%s: the size of the %s is told", when, what)
		}
	}
	if _, _, err := p.Manifest(p.t.Context(), Reference{Repository: in, Digest: p.image.Digest}); err == nil {
		p.t.Errorf("%s: the child is given", when)
	}
}

func TestAFlightOfAnotherRepositoryIsNotJoinedWithoutProof(t *testing.T) {
	for name, lie := range map[string]registrytest.Lie{"answering": registrytest.Stall(1000), "hung": registrytest.Hang()} {
		p := newParted(t, registrytest.AuthBasic, false)
		lure(t, p.up, p.image)
		p.up.Add(registrytest.Rule{Method: "GET", Path: "team/app/blobs/", Lie: lie})
		in, layer := Repository{Registry: "registry.test", Path: "team/app"}, p.image.Layers[0].Digest
		done := make(chan error, 1)
		go func() { done <- p.read(WithCaller(context.Background(), ann), in, layer, 0, len(p.layer)) }()
		eventually(t, func() bool { // one that answers asks for a credential first
			return slices.ContainsFunc(p.up.Requests("GET", "team/app/blobs/"), func(r *registrytest.Request) bool {
				return r.Status() == http.StatusOK || name == "hung"
			})
		})
		bait := Repository{Registry: "registry.test", Path: "lure/bait"}
		wantCode(t, p.read(t.Context(), bait, layer, 0, 1), CodeBlobUnknown)
		if n := p.up.Count("GET", "lure/bait/blobs/"); n != 0 {
			t.Errorf("%s: %d GETs for a blob that was on its way", name, n)
		}
		p.up.Heal()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAColdPullProvesItsRightByGetAlone(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "", []byte("one"), []byte("two"))
	index, _ := up.AddIndex("team/app", "v1", image)
	c := newCache(t, up, func(c *cache) { c.open = false })
	in := reference(t, ref).Repository
	c.expect(ref, index.Digest, OutcomeMiss)
	pull := func(when, blobs string) {
		t.Helper()
		c.get(in.String() + "@" + image.Digest.String())
		for _, d := range append([]specs.Descriptor{image.Config}, image.Layers...) {
			b, a, err := c.Blob(t.Context(), in, d.Digest)
			if err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			b.Close()
			if a.Outcome != blobs {
				t.Errorf("%s: blob answered as %q", when, a.Outcome)
			}
		}
	}
	pull("cold", OutcomeMiss)
	if heads, gets := up.Count("HEAD", "team/app/"), up.Count("GET", "team/app/"); heads != 0 || gets != 5 {
		t.Errorf("%d HEADs and %d GETs for five things", heads, gets)
	}
	c.settled(index.Digest, image.Digest, image.Config.Digest, image.Layers[0].Digest, image.Layers[1].Digest)
	c.noted(in, index.Digest, image.Digest)
	up.Stop()
	c.restart()
	pull("upstream is dead", OutcomeHit)
	c.get(ref)
}

func TestTheOperatorsPullHoldsWhatCameThroughTheRepository(t *testing.T) {
	p := newParted(t, registrytest.AuthBasic, true)
	in := Repository{Registry: "registry.test", Path: "team/app"}
	shared := p.up.AddImage("team/other", "v2", p.layer, []byte("its own"))
	p.pin(ref)
	for _, d := range []digest.Digest{p.image.Digest, p.image.Config.Digest, p.image.Layers[0].Digest} {
		if how := p.how(in, d); how != holdPrivate {
			t.Errorf("%s is held as %q", d, how)
		}
	}
	p.pin("registry.test/team/other:v2")
	in.Path = "team/other"
	if how := p.how(in, shared.Layers[1].Digest); how != holdPrivate {
		t.Errorf("what came is held as %q", how)
	}
	if how := p.how(in, shared.Layers[0].Digest); how != "" {
		t.Errorf("what was here is held as %q", how)
	}
	if err := p.read(WithCaller(t.Context(), bob), in, shared.Layers[0].Digest, 0, 1); err != nil {
		t.Error(err)
	}
	if how := p.how(in, shared.Layers[0].Digest); how != holdPrivate {
		t.Errorf("what upstream told bob of is held as %q", how)
	}
}

func TestWhatTheOperatorPulledWithoutASecretIsPublic(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, func(c *cache) { c.open = false })
	c.pin(ref)
	up.Stop()
	b, _, err := c.Blob(t.Context(), reference(t, ref).Repository, image.Layers[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
}

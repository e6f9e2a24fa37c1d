package registry

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// readingAhead is a cache that reads ahead, for linux/amd64.
func readingAhead(t *testing.T, up *registrytest.Registry, change func(*cache)) *cache {
	t.Helper()
	return newCache(t, up, func(c *cache) {
		forAMD64(c)
		c.options.NoReadAhead = false
		if change != nil {
			change(c)
		}
	})
}

// idle waits until nothing passes and nothing waits to be read ahead.
func (c *cache) idle() {
	c.t.Helper()
	eventually(c.t, func() bool {
		c.passages.mu.Lock()
		defer c.passages.mu.Unlock()
		for _, a := range c.passages.ahead {
			a.mu.Lock()
			running := a.running
			a.mu.Unlock()
			if running {
				return false
			}
		}
		return len(c.passages.now) == 0
	})
}

func digests(image registrytest.Image) []digest.Digest {
	all := []digest.Digest{image.Config.Digest}
	for _, l := range image.Layers {
		all = append(all, l.Digest)
	}
	return all
}

// TestLayersFlowBeforeTheyAreAskedFor, each once, whoever asks meanwhile.
func TestLayersFlowBeforeTheyAreAskedFor(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	var layers [][]byte
	for i := range 12 {
		layers = append(layers, registrytest.Bytes(byte(i), 10_000))
	}
	image := up.AddImageFor("team/app", "", amd64, layers...)
	up.AddIndex("team/app", "v1", image)
	c := readingAhead(t, up, nil)
	c.get("registry.test/team/app:v1")
	c.idle()
	if n := up.Count(http.MethodGet, "/blobs/"); n != 0 {
		t.Errorf("an index alone had %d blobs fetched", n)
	}
	c.get("registry.test/team/app@" + image.Digest.String())
	c.read("registry.test/team/app", image.Layers[11].Digest)
	c.settled(append(digests(image), image.Digest)...)
	for _, d := range digests(image) {
		if n := up.Count(http.MethodGet, "/blobs/"+d.String()); n != 1 {
			t.Errorf("%s was asked for %d times", d, n)
		}
	}
	up.Stop()
	for _, d := range digests(image) {
		c.read("registry.test/team/app", d)
	}
}

// TestReadAheadKeepsToThePlatforms, whether an index tells the platform or the config does.
func TestReadAheadKeepsToThePlatforms(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	arm := up.AddImageFor("team/app", "single", arm64, []byte("arm layer"))
	other := up.AddImageFor("team/app", "", arm64, []byte("other arm layer"))
	amd := up.AddImageFor("team/app", "amd", amd64, []byte("amd layer"))
	up.AddIndex("team/app", "v1", other)
	c := readingAhead(t, up, nil)
	c.get("registry.test/team/app:single")
	c.settled(arm.Config.Digest) // which tells that its layers are not wanted
	c.get("registry.test/team/app:v1")
	c.get("registry.test/team/app@" + other.Digest.String())
	c.get("registry.test/team/app:amd")
	c.settled(digests(amd)...)
	c.idle()
	for _, d := range []digest.Digest{arm.Layers[0].Digest, other.Layers[0].Digest, other.Config.Digest} {
		if n := up.Count("", "/blobs/"+d.String()); n != 0 {
			t.Errorf("%s was asked for %d times, though nobody wants that platform", d, n)
		}
	}
}

// TestNothingIsReadAhead where the settings, the disk or upstream say so, or
// where it is no image.
func TestNothingIsReadAhead(t *testing.T) {
	limits := registrytest.Rule{Path: "/manifests/", Lie: registrytest.Header("RateLimit-Remaining", "10;w=21600")}
	limit := registrytest.Rule{Path: "/manifests/", Lie: registrytest.Header("RateLimit-Limit", "100;w=21600")}
	for name, change := range map[string]func(*cache, *registrytest.Registry){
		"settings":  func(c *cache, _ *registrytest.Registry) { c.options.NoReadAhead = true },
		"disk":      func(c *cache, _ *registrytest.Registry) { c.free.Store(5e5) }, // of the 1 MB to be kept free
		"allowance": func(_ *cache, up *registrytest.Registry) { up.Add(limits, limit) },
	} {
		t.Run(name, func(t *testing.T) {
			up := registrytest.New(t, registrytest.Options{})
			image := up.AddImage("team/app", "v1", registrytest.Bytes(1, 10_000))
			c := readingAhead(t, up, func(c *cache) { change(c, up) })
			c.get("registry.test/team/app:v1")
			c.idle()
			if n := up.Count("", "/blobs/"); n != 0 {
				t.Errorf("%d blobs were asked for", n)
			}
			c.read("registry.test/team/app", image.Layers[0].Digest) // who asks gets it
		})
	}
	t.Run("signature", func(t *testing.T) {
		up := registrytest.New(t, registrytest.Options{})
		up.AddReferrer("team/app", specs.Descriptor{Digest: digest.FromString("x")}, "application/vnd.dev.cosign.artifact.sig.v1+json", []byte("signature"))
		c := readingAhead(t, up, nil)
		d := up.AddReferrer("team/app", specs.Descriptor{Digest: digest.FromString("y")}, "application/x", []byte("other"))
		c.get("registry.test/team/app@" + d.Digest.String())
		c.idle()
		if n := up.Count("", "/blobs/"); n != 0 {
			t.Errorf("%d blobs were asked for", n)
		}
	})
	t.Run("HEAD", func(t *testing.T) {
		up := registrytest.New(t, registrytest.Options{})
		up.AddImage("team/app", "v1", []byte("layer"))
		c := readingAhead(t, up, nil)
		if _, _, err := c.Manifest(OnlyLooking(context.Background()), reference(t, "registry.test/team/app:v1")); err != nil {
			t.Fatal(err)
		}
		c.idle()
		if n := up.Count("", "/blobs/"); n != 0 {
			t.Errorf("%d blobs were asked for", n)
		}
	})
}

// TestWhoAsksComesFirst: what is read ahead is bounded, and a client does not
// wait for its end.
func TestWhoAsksComesFirst(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	var layers [][]byte
	for i := range 20 {
		layers = append(layers, registrytest.Bytes(byte(i), 10_000))
	}
	image := up.AddImageFor("team/app", "", amd64, layers...)
	up.AddIndex("team/app", "v1", image)
	last := image.Layers[19].Digest
	up.Add(registrytest.Rule{Method: http.MethodGet, Path: "/blobs/", Lie: registrytest.Stall(100)})
	c := readingAhead(t, up, nil)
	c.get("registry.test/team/app:v1")
	c.get("registry.test/team/app@" + image.Digest.String())
	up.Wait(t, http.MethodGet, "/blobs/", aheadMost)
	b, _, err := c.Blob(context.Background(), reference(t, "registry.test/team/app:v1").Repository, last)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	up.Wait(t, http.MethodGet, "/blobs/"+last.String(), 1)
	for range 100 { // what is too many would come meanwhile
		if _, _, err := c.Tags(context.Background(), reference(t, "registry.test/team/app:v1").Repository); err != nil {
			t.Fatal(err)
		}
	}
	if n := up.Count(http.MethodGet, "/blobs/"); n != aheadMost+1 {
		t.Errorf("%d blobs were asked for, want %d ahead and 1 that a client asked for", n, aheadMost)
	}
	up.Heal()
	c.settled(digests(image)...)
}

// TestReadAheadTakesNoRightThatTheCallerHasNot: what nobody may see is asked for
// as nobody, and what a caller's own right brought is for those with a right.
func TestReadAheadTakesNoRightThatTheCallerHasNot(t *testing.T) {
	for _, operator := range []bool{false, true} {
		t.Run(fmt.Sprintf("operator %v", operator), func(t *testing.T) {
			p := newParted(t, registrytest.AuthBasic, operator)
			p.stop()
			p.options.NoReadAhead, p.options.Platforms = false, []string{"linux/amd64"}
			p.start()
			secret := p.up.AddImage("team/secret", "v1", []byte("what nobody may see"))
			for _, d := range lure(t, p.up, secret) {
				p.get("registry.test/lure/bait@" + d.String())
			}
			p.idle()
			if _, err := p.store.Stat(secret.Layers[0].Digest); err == nil {
				t.Fatal("a manifest that anybody may push had a private layer fetched")
			}
			if _, _, err := p.Manifest(WithCaller(t.Context(), ann), reference(t, "registry.test/team/app:v1")); err != nil {
				t.Fatal(err)
			}
			p.settled(p.image.Layers[0].Digest)
			p.noted(reference(t, "registry.test/team/app:v1").Repository, p.image.Layers[0].Digest)
			p.shut("read ahead", CodeUnauthorized, CodeDenied)
			p.served("read ahead", ann)
			if n := p.up.Sent(http.MethodGet, "/team/app/blobs/"+p.image.Layers[0].Digest.String()); n != int64(len(p.layer)) {
				t.Errorf("upstream sent %d bytes of the layer, which has %d", n, len(p.layer))
			}
		})
	}
}

package registry

import (
	"context"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/registry/registrytest"
)

func (c *cache) referrersOf(d digest.Digest) ([]specs.Descriptor, Answer) {
	c.t.Helper()
	page, a, err := c.Referrers(context.Background(), reference(c.t, ref).Repository, d, ReferrersQuery{})
	if err != nil {
		c.t.Fatal(err)
	}
	return page.Manifests, a
}

func TestReferrersOfAPinAreKeptWithIt(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{Referrers: true})
	image := up.AddImage("team/app", "v1", []byte("one"))
	sbom := up.AddReferrer("team/app", image.Descriptor, "application/spdx+json", []byte("sbom"))
	gone := up.AddReferrer("team/app", image.Descriptor, "application/signature", []byte("signature"))
	up.Add(registrytest.Rule{Path: digest.FromString("signature").String(), Lie: registrytest.Answer(404, "")})
	c := newCache(t, up, nil)
	p := c.pin(ref)
	eventually(t, func() bool { p = c.pinNow(ref); return p.ReferrersWant == 2 && p.Referrers == 1 })
	if !p.Complete || p.State != PinComplete {
		t.Errorf("a signature that cannot be had makes the pin %+v", p)
	}
	up.Stop()
	c.restart()
	list, a := c.referrersOf(image.Digest)
	if len(list) != 2 || a.Outcome != OutcomeStale {
		t.Fatalf("%+v, %+v", list, a)
	}
	for _, d := range list {
		if d.Digest != sbom.Digest && d.Digest != gone.Digest || d.ArtifactType == "" || d.Annotations["org.example.kind"] != d.ArtifactType {
			t.Errorf("%+v", d)
		}
	}
	c.expect("registry.test/team/app@"+sbom.Digest.String(), sbom.Digest, OutcomeHit)
}

func TestReferrersByTheFallbackTag(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("one"))
	sbom := up.AddReferrer("team/app", image.Descriptor, "application/spdx+json", []byte("sbom"))
	c := newCache(t, up, nil)
	if list, _ := c.referrersOf(image.Digest); len(list) != 0 {
		t.Errorf("%+v", list)
	}
	up.AddIndex("team/app", referrersTag(image.Digest), registrytest.Image{Descriptor: sbom})
	c.clock.advance(time.Hour)
	if list, a := c.referrersOf(image.Digest); len(list) != 1 || list[0].Digest != sbom.Digest || a.Outcome != OutcomeMiss {
		t.Errorf("%+v, %+v", list, a)
	}
	asked := up.Count("", "/referrers/")
	if _, a := c.referrersOf(image.Digest); a.Outcome != OutcomeHit || up.Count("", "/referrers/") != asked {
		t.Errorf("%+v", a)
	}
	c.clock.advance(time.Hour)
	up.Stop()
	if list, a := c.referrersOf(image.Digest); len(list) != 1 || a.Outcome != OutcomeStale {
		t.Errorf("%+v, %+v", list, a)
	}
}

func TestWhatRefersToSomethingElseIsNotKeptWithAPin(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("one"))
	other := up.AddImage("team/app", "v2", []byte("two"))
	c := newCache(t, up, nil)
	up.AddIndex("team/app", referrersTag(image.Digest), other)
	c.pin(ref)
	up.Wait(t, "GET", "/manifests/"+other.Digest.String(), 1)
	c.stop()
	c.start()
	if p := c.pinNow(ref); p.ReferrersWant != 0 {
		t.Errorf("%+v", p)
	}
}

func TestReferrersTagIsCutAsTheSpecSays(t *testing.T) {
	d := digest.SHA512.FromString("x")
	if got := referrersTag(d); got != "sha512-"+d.Encoded()[:64] {
		t.Error(got)
	}
}

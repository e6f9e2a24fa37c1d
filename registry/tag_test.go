package registry

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/imagecache/imagecache/registry/registrytest"
)

const ref = "registry.test/team/app:v1"

func TestFreshTagAsksNobody(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("layer"))
	c := newCache(t, up, nil)
	c.expect(ref, image.Digest, OutcomeMiss)
	up.ForgetRequests()
	c.clock.advance(59 * time.Second)
	a := c.expect(ref, image.Digest, OutcomeHit)
	if a.Age != 59*time.Second {
		t.Errorf("age %s, want 59s", a.Age)
	}
	if n := up.Count("", ".*"); n != 0 {
		t.Errorf("upstream was asked %d times", n)
	}
}

func TestOldTagIsRevalidatedByHead(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("layer"))
	c := newCache(t, up, nil)
	c.get(ref)
	up.ForgetRequests()
	c.clock.advance(time.Minute)
	c.expect(ref, image.Digest, OutcomeHit)
	c.expect(ref, image.Digest, OutcomeHit)
	if heads, gets := up.Count("HEAD", "/manifests/"), up.Count("GET", "/manifests/"); heads != 1 || gets != 0 {
		t.Errorf("%d HEADs and %d GETs, want one HEAD", heads, gets)
	}
}

func TestMovedTagIsFollowedAndTheOldDigestStays(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	old := up.AddImage("team/app", "v1", []byte("old"))
	c := newCache(t, up, nil)
	c.get(ref)
	moved := up.AddImage("team/app", "v1", []byte("new"))
	c.expect(ref, old.Digest, OutcomeHit)
	c.clock.advance(time.Minute)
	c.expect(ref, moved.Digest, OutcomeMiss)
	up.Stop()
	c.expect("registry.test/team/app@"+old.Digest.String(), old.Digest, OutcomeHit)
}

func TestUpstreamWithoutHeadIsAskedByGet(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	up.Add(registrytest.Rule{Lie: registrytest.NoHead()})
	up.AddImage("team/app", "v1", []byte("old"))
	c := newCache(t, up, nil)
	c.get(ref)
	moved := up.AddImage("team/app", "v1", []byte("new"))
	c.clock.advance(time.Minute)
	c.expect(ref, moved.Digest, OutcomeMiss)
}

func TestOldTagIsAnsweredStaleWhenUpstreamFails(t *testing.T) {
	for name, fail := range map[string]func(*registrytest.Registry){
		"gone":         (*registrytest.Registry).Stop,
		"500":          func(r *registrytest.Registry) { r.Add(registrytest.Rule{Lie: registrytest.Answer(500, "")}) },
		"429":          func(r *registrytest.Registry) { r.Add(registrytest.Rule{Lie: registrytest.Answer(429, "60")}) },
		"401":          func(r *registrytest.Registry) { r.Add(registrytest.Rule{Lie: registrytest.Answer(401, "")}) },
		"tag deleted":  func(r *registrytest.Registry) { r.Untag("team/app", "v1") },
		"wrong answer": func(r *registrytest.Registry) { r.Add(registrytest.Rule{Lie: registrytest.Substitute([]byte("{}"))}) },
	} {
		t.Run(name, func(t *testing.T) {
			up := registrytest.New(t, registrytest.Options{})
			image := up.AddImage("team/app", "v1", []byte("layer"))
			c := newCache(t, up, nil)
			c.get(ref)
			c.settled(image.Digest)
			up.AddImage("team/app", "v1", []byte("new"))
			fail(up)
			c.clock.advance(time.Minute)
			if a := c.expect(ref, image.Digest, OutcomeStale); a.Detail == "" {
				t.Error("a stale answer must say why")
			}
			up.ForgetRequests()
			c.expect(ref, image.Digest, OutcomeStale)
			if n := up.Count("", ".*"); n != 0 {
				t.Errorf("upstream was asked %d times right after it failed", n)
			}
			c.restart()
			c.clock.advance(time.Minute)
			c.expect(ref, image.Digest, OutcomeStale)
		})
	}
}

func TestHungUpstreamKeepsOnlyTheFirstWaiting(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("layer"))
	c := newCache(t, up, func(c *cache) { c.stale = 50 * time.Millisecond })
	c.get(ref)
	up.Add(registrytest.Rule{Lie: registrytest.Hang()})
	c.clock.advance(time.Minute)
	c.expect(ref, image.Digest, OutcomeStale)
	up.Wait(t, "HEAD", "/manifests/v1", 1)
	if _, _, resting := c.routes.byName["registry.test"].resting(); !resting {
		t.Error("a hung upstream must be left alone by those who have an answer")
	}
	if a := c.expect(ref, image.Digest, OutcomeStale); !strings.Contains(a.Detail, "asked again in") {
		t.Errorf("the next one waited for a hung upstream too: %s", a.Detail)
	}
	up.Heal()
	c.clock.advance(time.Minute)
	eventually(t, func() bool { _, a := c.get(ref); return a.Outcome == OutcomeHit })
}

func TestStampedeOnAnOldTagIsOneQuestion(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("layer"))
	c := newCache(t, up, nil)
	c.get(ref)
	c.clock.advance(time.Minute)
	up.ForgetRequests()
	up.Add(registrytest.Rule{Method: "HEAD", Lie: registrytest.Hang()})
	var askers sync.WaitGroup
	for range 200 {
		askers.Go(func() { c.expect(ref, image.Digest, OutcomeHit) })
	}
	up.Wait(t, "HEAD", "/manifests/v1", 1)
	up.Heal()
	askers.Wait()
	if n := up.Count("", "/manifests/v1"); n != 1 {
		t.Errorf("%d questions, want 1", n)
	}
}

func TestWhatUpstreamDoesNotHaveIsRememberedForSeconds(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	c := newCache(t, up, nil)
	for range 5 {
		c.refused(ref, CodeManifestUnknown)
	}
	if n := up.Count("", "/manifests/v1"); n != 1 {
		t.Errorf("upstream was asked %d times for what it does not have, want 1", n)
	}
	image := up.AddImage("team/app", "v1", []byte("layer"))
	c.clock.advance(absentFor)
	c.expect(ref, image.Digest, OutcomeMiss)
}

func TestARefusalIsNotRemembered(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("layer"))
	up.Add(registrytest.Rule{Path: "/manifests/", Times: 1, Lie: registrytest.Answer(403, "")})
	c := newCache(t, up, nil)
	c.refused(ref, CodeDenied)
	c.expect(ref, image.Digest, OutcomeMiss)
}

func TestALimitedUpstreamIsNotAskedForWhatIsNotHere(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	up.Add(registrytest.Rule{Lie: registrytest.Answer(429, "30")})
	c := newCache(t, up, nil)
	c.refused(ref, CodeTooMany)
	e := c.refused("registry.test/team/other:v1", CodeTooMany)
	if e.RetryAfter != 30*time.Second {
		t.Errorf("retry after %s, want 30s", e.RetryAfter)
	}
	if n := up.Count("", "/manifests/"); n != 1 {
		t.Errorf("a limited upstream was asked %d times, want 1", n)
	}
}

func TestManifestsThatCanBeReadAsTwoThingsAreRefused(t *testing.T) {
	const oci, index = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"
	config := `{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:` + fmt.Sprintf("%064d", 0) + `","size":1}`
	for name, sent := range map[string]struct{ mediaType, body string }{
		"layers and manifests":   {oci, `{"schemaVersion":2,"config":` + config + `,"layers":[],"manifests":[]}`},
		"index sent as manifest": {oci, `{"schemaVersion":2,"manifests":[]}`},
		"manifest sent as index": {index, `{"schemaVersion":2,"config":` + config + `,"layers":[]}`},
		"says it is another":     {oci, `{"schemaVersion":2,"mediaType":"` + index + `","config":` + config + `}`},
		"neither":                {oci, `{"schemaVersion":2}`},
		"not JSON":               {oci, `<html>`},
		"schema 1":               {"application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1,"fsLayers":[]}`},
		"a path for a digest":    {index, `{"schemaVersion":2,"manifests":[{"digest":"../../etc/passwd","size":1}]}`},
		"a negative size":        {index, `{"schemaVersion":2,"manifests":[{"digest":"sha256:` + fmt.Sprintf("%064d", 0) + `","size":-1}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			up := registrytest.New(t, registrytest.Options{})
			d := up.AddManifest("team/app", sent.mediaType, []byte(sent.body))
			up.Tag("team/app", "v1", d.Digest)
			c := newCache(t, up, nil)
			c.refused(ref, CodeManifestInvalid)
			if _, err := c.store.Stat(d.Digest); err == nil {
				t.Error("it was stored")
			}
		})
	}
}

func TestAnUnknownRegistryIsNeverDialled(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	c.refused("127.0.0.1:1/team/app:v1", CodeNameUnknown)
}

func TestTagsAreListedFromHereWhenUpstreamIsAway(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	up.AddImage("team/app", "v2", []byte("layer"))
	up.AddImage("team/app", "v1", []byte("layer"))
	up.AddImage("team/app", "v3", []byte("layer"))
	c := newCache(t, up, nil)
	c.get(ref)
	c.get("registry.test/team/app:v3")
	in := reference(t, ref).Repository
	tags, a, err := c.Tags(context.Background(), in)
	if err != nil || fmt.Sprint(tags) != "[v1 v2 v3]" || a.Outcome != OutcomeMiss {
		t.Fatalf("%v, %+v, %v", tags, a, err)
	}
	up.Stop()
	tags, a, err = c.Tags(context.Background(), in)
	if err != nil || fmt.Sprint(tags) != "[v1 v3]" || a.Outcome != OutcomeStale || a.Detail == "" {
		t.Fatalf("upstream away: %v, %+v, %v", tags, a, err)
	}
}

func TestALimitOnBlobsHoldsForEverybody(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("one"), []byte("two"))
	up.Add(registrytest.Rule{Path: "/blobs/", Lie: registrytest.Answer(429, "60")})
	c := newCache(t, up, nil)
	in := reference(t, ref).Repository
	for _, d := range image.Layers {
		b, _, err := c.Blob(context.Background(), in, d.Digest)
		if err == nil {
			b.Close()
		}
		if e := wantCode(t, err, CodeTooMany); e.RetryAfter == 0 {
			t.Error("it does not say for how long")
		}
	}
	if n := up.Count("", "/blobs/"); n != 1 {
		t.Errorf("a limited upstream was asked %d times, want 1", n)
	}
}

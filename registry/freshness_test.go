package registry

import (
	"testing"
	"time"

	"github.com/imagecache/imagecache/registry/registrytest"
)

func TestLifetimeOfATag(t *testing.T) {
	u := &upstream{options: UpstreamOptions{TagTTL: time.Minute, TagTTLs: map[string]time.Duration{
		"v*": time.Hour, "v1.*": 2 * time.Hour, "team/app:latest": time.Second,
	}}}
	for name, want := range map[string]time.Duration{
		"team/app:edge":    time.Minute,
		"team/app:v2":      time.Hour,
		"team/app:v1.2":    2 * time.Hour,
		"team/app:latest":  time.Second,
		"team/tool:latest": time.Minute,
	} {
		if got := u.lifetime(reference(t, "registry.test/"+name), tagRow{}); got != want {
			t.Errorf("%s lives %s, want %s", name, got, want)
		}
	}
	for said, want := range map[time.Duration]time.Duration{
		time.Second: 6 * time.Second, 3 * time.Minute: 3 * time.Minute, time.Hour: 10 * time.Minute,
	} {
		if got := u.lifetime(reference(t, "registry.test/team/app:edge"), tagRow{MaxAge: said}); got != want {
			t.Errorf("max-age %s makes %s, want %s", said, got, want)
		}
	}
	if got := u.lifetime(reference(t, ref), tagRow{MaxAge: time.Second}); got != time.Hour {
		t.Errorf("the operator's pattern must win over max-age: %s", got)
	}
}

func TestUpstreamsMaxAgeIsHonoured(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	up.Add(registrytest.Rule{Lie: registrytest.Header("Cache-Control", "max-age=180")})
	image := up.AddImage("team/app", "v1", []byte("layer"))
	c := newCache(t, up, nil)
	c.get(ref)
	up.ForgetRequests()
	c.clock.advance(179 * time.Second)
	c.expect(ref, image.Digest, OutcomeHit)
	if n := up.Count("", ".*"); n != 0 {
		t.Errorf("asked %d times within upstream's own max-age", n)
	}
	c.clock.advance(time.Second)
	c.expect(ref, image.Digest, OutcomeHit)
	if n := up.Count("HEAD", ".*"); n != 1 {
		t.Errorf("asked %d times after it, want 1", n)
	}
}

func TestAnAnswerOlderThanStaleMaxIsNotGiven(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("layer"))
	c := newCache(t, up, func(c *cache) { c.options.StaleMax = time.Hour })
	c.get(ref)
	up.Stop()
	c.clock.advance(59 * time.Minute)
	c.expect(ref, image.Digest, OutcomeStale)
	c.clock.advance(time.Minute)
	c.refused(ref, CodeUnavailable)
}

func TestATagThatManyAskForIsRefreshedAheadOfItsEnd(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("layer"))
	c := newCache(t, up, nil)
	c.get(ref)
	up.ForgetRequests()
	for range oftenAsked {
		c.get(ref)
	}
	if n := up.Count("", ".*"); n != 0 {
		t.Fatalf("asked %d times for a young tag", n)
	}
	c.clock.advance(50 * time.Second)
	c.expect(ref, image.Digest, OutcomeHit)
	up.Wait(t, "HEAD", "/manifests/v1", 1)
	eventually(t, func() bool { now, _ := c.tagged(ref); return now.checked.Equal(c.clock.now()) })
	c.clock.advance(30 * time.Second) // beyond the end of the first lifetime
	c.expect(ref, image.Digest, OutcomeHit)
	if n := up.Count("", ".*"); n != 1 {
		t.Errorf("asked %d times, want 1", n)
	}
}

func TestRateLimitIsReadAndShown(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	up.AddImage("team/app", "v1", []byte("layer"))
	up.Add(registrytest.Rule{Lie: registrytest.Header("RateLimit-Limit", "100;w=21600")})
	up.Add(registrytest.Rule{Lie: registrytest.Header("RateLimit-Remaining", "76;w=21600")})
	c := newCache(t, up, nil)
	c.get(ref)
	got := c.routes.byName["registry.test"].status().Allowance
	if got == nil || *got != (Allowance{Limit: 100, Remaining: 76, Window: 21600}) {
		t.Errorf("%+v", got)
	}
}

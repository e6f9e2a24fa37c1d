package registry

import (
	"context"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/registry/registrytest"
)

func TestAConfirmedTagIsNotOldAfterARestart(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("layer"))
	c := newCache(t, up, func(c *cache) { c.options.StaleMax = time.Hour })
	c.get(ref)
	for range 6 {
		c.clock.advance(20 * time.Minute)
		c.expect(ref, image.Digest, OutcomeHit)
	}
	up.Stop()
	c.restart()
	c.clock.advance(2 * time.Minute)
	c.expect(ref, image.Digest, OutcomeStale)
}

func TestManyWhoAskForATagThatEndsSoonAreOneQuestionAndOneGoroutine(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("layer"))
	c := newCache(t, up, nil)
	for range oftenAsked + 1 {
		c.get(ref)
	}
	up.Add(registrytest.Rule{Lie: registrytest.Hang()})
	c.clock.advance(50 * time.Second)
	before := runtime.NumGoroutine()
	for range 1000 {
		c.expect(ref, image.Digest, OutcomeHit)
	}
	if now := runtime.NumGoroutine(); now > before+50 {
		t.Errorf("%d goroutines more", now-before)
	}
	up.Release()
}

func TestLayersThatComeSlowlyDoNotHoldBackQuestions(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("layer"))
	c := newCache(t, up, nil)
	in := reference(t, ref).Repository
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for i := range maxBodies {
		content := registrytest.Bytes(byte(i), 10_000)
		d := up.AddBlob("team/app", content)
		up.Add(registrytest.Rule{Path: d.String(), Lie: registrytest.Stall(100)})
		go func(d digest.Digest) {
			if b, _, err := c.Blob(ctx, in, d); err == nil {
				b.Close()
			}
		}(d)
		up.Wait(t, "GET", d.String(), 1)
	}
	c.expect(ref, image.Digest, OutcomeMiss)
	up.Release()
}

func TestAColdManifestIsAskedForOnceMore(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("layer"))
	up.Add(registrytest.Rule{Path: "/manifests/", Times: 1, Lie: registrytest.Answer(503, "")})
	c := newCache(t, up, nil)
	c.expect(ref, image.Digest, OutcomeMiss)
}

func TestASignatureInALocationThatCannotBeReadIsNotTold(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("layer"))
	for _, location := range []string{"http://127.0.0.1:1/%zz?sig=PLANTED", "http://a b/?sig=PLANTED", "http://[::1?sig=PLANTED"} {
		up.Heal()
		up.Add(registrytest.Rule{Path: "/blobs/", Lie: registrytest.RedirectTo(location)})
		c := newCache(t, up, nil)
		_, _, err := c.Blob(context.Background(), reference(t, ref).Repository, image.Layers[0].Digest)
		if err == nil || strings.Contains(err.Error(), "PLANTED") {
			t.Errorf("%s: %v", location, err)
		}
		if s := c.routes.byName["registry.test"].status(); strings.Contains(s.LastError, "PLANTED") {
			t.Errorf("%s: status says %s", location, s.LastError)
		}
	}
}

func TestAddressesThatLeadToForbiddenOnesAreRefused(t *testing.T) {
	for _, a := range []string{
		"169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "2002:a9fe:a9fe::1", "::a9fe:a9fe",
		"0.0.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd20:ce::254", "fd00:ec2::254", "fe80::1", "::1", "127.0.0.1", "::",
	} {
		if offLimits(netip.MustParseAddr(a), false) == "" {
			t.Errorf("%s is permitted", a)
		}
	}
	for _, a := range []string{"192.0.2.1", "2001:db8::1", "64:ff9b::c000:201", "10.1.2.3"} {
		if why := offLimits(netip.MustParseAddr(a), false); why != "" {
			t.Errorf("%s is refused: %s", a, why)
		}
	}
}

package registry

import (
	"context"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// mirrored is a cache whose upstream has mirrors, which have the same image.
func mirrored(t *testing.T, change func(*cache), mirrors ...*registrytest.Registry) (*cache, registrytest.Image, *registrytest.Registry) {
	t.Helper()
	noDockerConfig(t)
	up := registrytest.New(t, registrytest.Options{})
	layer := registrytest.Bytes(7, 1<<20)
	image := up.AddImage("team/app", "v1", layer)
	for _, m := range mirrors {
		m.AddImage("team/app", "v1", layer)
	}
	c := newCache(t, up, func(c *cache) {
		for _, m := range mirrors {
			c.options.Mirrors = append(c.options.Mirrors, m.URL())
		}
		if change != nil {
			change(c)
		}
	})
	return c, image, up
}

// blob pulls a blob to its end.
func (c *cache) blobOf(d digest.Digest) error {
	c.t.Helper()
	b, _, err := c.Blob(context.Background(), reference(c.t, ref).Repository, d)
	if err != nil {
		return err
	}
	defer b.Close()
	content, err := io.ReadAll(b)
	if err == nil && digest.FromBytes(content) != d {
		c.t.Errorf("%s: other bytes were read to the end", d)
	}
	return err
}

func TestMirrorsAreAskedInOrderForBytesAndUpstreamForTheTag(t *testing.T) {
	one, two := registrytest.New(t, registrytest.Options{}), registrytest.New(t, registrytest.Options{})
	c, image, up := mirrored(t, nil, one, two)
	c.expect(ref, image.Digest, OutcomeMiss)
	noErr(t, c.blobOf(image.Layers[0].Digest))
	if n := up.Count("GET", ".*"); n != 0 {
		t.Errorf("upstream was asked for bytes %d times", n)
	}
	if n := up.Count("HEAD", "/manifests/v1"); n != 1 {
		t.Errorf("upstream was asked %d times what the tag means", n)
	}
	if one.Count("GET", "/manifests/"+image.Digest.String()) != 1 || one.Count("GET", "/blobs/") == 0 || two.Count("", ".*") != 0 {
		t.Error("not the first mirror, or not it alone, gave the image")
	}
	if asked := one.Requests("GET", "/manifests/")[0]; asked.Query != "ns=registry.test" {
		t.Errorf("the mirror was asked with %q, and is not told whose image is meant", asked.Query)
	}
	s := c.Status(t.Context()).Upstreams
	for _, u := range s {
		if u.Name == "registry.test" && (len(u.Mirrors) != 2 || u.Mirrors[0].Name != one.Host() || u.Mirrors[0].Requests == 0) {
			t.Errorf("the status of the mirrors is %+v", u.Mirrors)
		}
	}
}

func TestWhatAMirrorDoesNotGiveTheNextOneDoes(t *testing.T) {
	for name, lie := range map[string]registrytest.Lie{
		"404": registrytest.Answer(404, ""), "401": registrytest.Answer(401, ""), "403": registrytest.Answer(403, ""),
		"429": registrytest.Answer(429, "60"), "500": registrytest.Answer(500, ""), "another manifest": registrytest.Substitute([]byte(`{}`)),
		"nothing": registrytest.Hang(),
	} {
		t.Run(name, func(t *testing.T) {
			one, two := registrytest.New(t, registrytest.Options{}), registrytest.New(t, registrytest.Options{})
			one.Add(registrytest.Rule{Path: "/manifests/", Lie: lie})
			c, image, up := mirrored(t, func(c *cache) {
				if name == "nothing" {
					c.stale = 3 * time.Second // a busy machine takes less
				}
			}, one, two)
			c.expect(ref, image.Digest, OutcomeMiss)
			if one.Count("GET", "/manifests/") == 0 || two.Count("GET", "/manifests/") != 1 || up.Count("GET", "/manifests/") != 0 {
				t.Error("they were not asked in order")
			}
		})
	}
}

func TestMirrorsThatAreGoneLeaveUpstream(t *testing.T) {
	one := registrytest.New(t, registrytest.Options{})
	c, image, up := mirrored(t, nil, one)
	one.Stop()
	c.expect(ref, image.Digest, OutcomeMiss)
	noErr(t, c.blobOf(image.Layers[0].Digest))
	if up.Count("GET", "/manifests/"+image.Digest.String()) != 1 {
		t.Error("upstream was not asked")
	}
}

func TestOnlyUpstreamsOwnFourOhFourIsFinal(t *testing.T) {
	one := registrytest.New(t, registrytest.Options{})
	c, _, up := mirrored(t, nil, one)
	late := up.AddImage("team/app", "v2", []byte("only upstream has it"))
	c.expect("registry.test/team/app:v2", late.Digest, OutcomeMiss)
	c.refused("registry.test/team/app@"+digest.FromString("nobody's").String(), CodeManifestUnknown)
	one.AddImage("team/app", "v3", []byte("only the mirror has it"))
	c.refused("registry.test/team/app:v3", CodeManifestUnknown)
}

func TestABlobThatBreaksAtOneMirrorGoesOnFromTheSameByteAtTheNext(t *testing.T) {
	for name, lie := range map[string]registrytest.Lie{
		"cut": registrytest.Cut(300_000), "silence": registrytest.Stall(300_000),
	} {
		t.Run(name, func(t *testing.T) {
			one, two := registrytest.New(t, registrytest.Options{}), registrytest.New(t, registrytest.Options{})
			one.Add(registrytest.Rule{Path: "/blobs/", Lie: lie}) // each time
			c, image, up := mirrored(t, func(c *cache) {
				c.options.NoReadAhead = true
				if name == "silence" {
					c.stall = 3 * time.Second // a busy machine is silent for less
				}
			}, one, two)
			noErr(t, c.blobOf(image.Layers[0].Digest))
			rest := two.Requests("GET", "/blobs/")
			if len(rest) == 0 || !strings.HasPrefix(rest[0].Range, "bytes=") || strings.HasPrefix(rest[0].Range, "bytes=0-") {
				t.Errorf("the next one was asked %d times, not for the rest", len(rest))
			}
			if n := up.Count("GET", "/blobs/"); n != 0 {
				t.Errorf("upstream was asked for the blob %d times", n)
			}
		})
	}
}

func TestAMirrorsWrongBlobIsCutAndThenComesFromTheNext(t *testing.T) {
	for name, lie := range map[string]registrytest.Lie{
		"a bit": registrytest.Corrupt(1000), "the size": registrytest.Short(1000),
	} {
		t.Run(name, func(t *testing.T) {
			one, two := registrytest.New(t, registrytest.Options{}), registrytest.New(t, registrytest.Options{})
			one.Add(registrytest.Rule{Path: "/blobs/", Lie: lie})
			c, image, _ := mirrored(t, func(c *cache) { c.options.NoReadAhead = true }, one, two)
			if err := c.blobOf(image.Layers[0].Digest); err == nil {
				t.Error("a wrong blob was read to its end")
			}
			noErr(t, c.blobOf(image.Layers[0].Digest))
			if n := one.Count("GET", "/blobs/"); n != 1 {
				t.Errorf("the mirror that lied was asked %d times", n)
			}
		})
	}
}

func TestWhatAMirrorGivesToAnybodyProvesNothing(t *testing.T) {
	one := registrytest.New(t, registrytest.Options{}) // gives everything to everybody
	layer := registrytest.Bytes(7, 1<<20)
	image := one.AddImage("team/app", "v1", layer)
	noDockerConfig(t)
	up := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBasic})
	up.AddImage("team/app", "v1", layer)
	up.AddUser("ann", "ann's", "team/app")
	c := newCache(t, up, func(c *cache) {
		c.options.Mirrors = []string{one.URL()}
		withPassword(t, "open sesame")(&c.options)
		c.options.Access = AccessProven
	})
	byDigest := "registry.test/team/app@" + image.Digest.String()
	refuse := func(when string) {
		t.Helper()
		for _, r := range []string{ref, byDigest} {
			if _, _, err := c.Manifest(t.Context(), reference(t, r)); err == nil {
				t.Errorf("%s: a caller without a right got %s", when, r)
			}
		}
		if err := c.blobOf(image.Layers[0].Digest); err == nil {
			t.Errorf("%s: a caller without a right got the layer", when)
		}
	}
	refuse("cold")
	if _, err := c.Pull(t.Context(), reference(t, ref), []string{"linux/amd64"}, nil); err != nil {
		t.Fatal(err)
	}
	if one.Count("GET", "/blobs/") == 0 {
		t.Fatal("the operator's pull did not come from the mirror")
	}
	refuse("warm")
	c.restart()
	refuse("after a restart")
	own := WithCaller(t.Context(), login("ann", "ann's"))
	if _, _, err := c.Manifest(own, reference(t, ref)); err != nil {
		t.Errorf("a caller whom upstream lets in: %v", err)
	}
	b, _, err := c.Blob(own, reference(t, ref).Repository, image.Layers[0].Digest)
	noErr(t, err)
	b.Close()
	up.Stop()
	refuse("upstream is away")
	for _, asked := range one.Requests("", ".*") {
		if asked.Auth != "none" {
			t.Error("the mirror was shown a credential that is not for it")
		}
	}
}

func TestAMirrorSaysWhatATagMeansOnlyWhereUpstreamCannot(t *testing.T) {
	one := registrytest.New(t, registrytest.Options{})
	c, image, up := mirrored(t, nil, one)
	c.expect(ref, image.Digest, OutcomeMiss)
	older := one.AddImage("team/app", "v1", []byte("what the tag meant last year"))
	up.Stop()
	c.clock.advance(time.Minute)
	if a := c.expect(ref, image.Digest, OutcomeStale); a.Detail == "" {
		t.Error("it does not say why")
	}
	c.clock.advance(time.Minute) // what upstream said is not taken back by a mirror
	c.expect(ref, image.Digest, OutcomeStale)

	other := "registry.test/team/app:v9" // which upstream never told of
	one.Tag("team/app", "v9", older.Digest)
	c.expect(other, older.Digest, OutcomeMiss)
	newer := one.AddImage("team/app", "v9", []byte("newer"))
	c.clock.advance(time.Minute)
	c.expect(other, newer.Digest, OutcomeMiss)
	up.Start(t)
	up.AddImage("team/app", "v9", []byte("upstream's own"))
	c.clock.advance(2 * time.Minute)
	eventually(t, func() bool {
		m, _ := c.get(other)
		c.clock.advance(time.Minute)
		return m.Descriptor.Digest != newer.Digest
	})
}

func TestAMirrorBelowAPathWithALoginOfItsOwn(t *testing.T) {
	mirror := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBasic})
	layer := registrytest.Bytes(7, 1<<20)
	mirror.AddImage("hub/team/app", "v1", layer)
	file := filepath.Join(t.TempDir(), "password")
	writeFile(t, file, "open sesame")
	c, image, up := mirrored(t, func(c *cache) {
		c.options.Mirrors = []string{mirror.URL() + "/hub"}
		c.more = []UpstreamOptions{{Name: mirror.Host(), URL: mirror.URL(), Username: "alice", PasswordFile: file}}
	})
	c.expect(ref, image.Digest, OutcomeMiss)
	if up.Count("GET", ".*") != 0 || mirror.Count("GET", "^/v2/hub/team/app/manifests/sha256:") == 0 {
		t.Error("the mirror's own path or login was not used")
	}
}

func TestMirrorsServeWhatUpstreamLimits(t *testing.T) {
	one := registrytest.New(t, registrytest.Options{})
	c, image, up := mirrored(t, nil, one)
	up.Add(registrytest.Rule{Lie: registrytest.Answer(429, "60")})
	c.expect(ref, image.Digest, OutcomeMiss)
	noErr(t, c.blobOf(image.Layers[0].Digest))
	asked := up.Count("", ".*")
	c.refused("registry.test/team/app@"+digest.FromString("nobody's").String(), CodeTooMany)
	if up.Count("", ".*") != asked {
		t.Error("upstream was asked while it limits us")
	}
}

func TestMirrorOptions(t *testing.T) {
	for want, mirrors := range map[string][]string{
		"begins with neither": {"ftp://mirror.example"},
		"holds a user":        {"https://u:hush@mirror.example"},
		"named twice":         {"https://mirror.example", "https://mirror.example"},
		"more than":           {"https://mirror.example?x=1"},
	} {
		_, err := newUpstream(UpstreamOptions{Name: "registry.test", Mirrors: mirrors}, upstreamEnv{})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", mirrors, err)
		}
	}
}

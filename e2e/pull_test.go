//go:build e2e

package e2e

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
)

// shipped is an image as the tests expect it to arrive and to run.
type shipped struct {
	tag     string // "repository:tag"
	what    remote.Taggable
	runs    v1.Image // what runs on this machine
	command []string // nil: what the image says
	prints  string
	digest  digest.Digest // set by ship
}

// reference is what users would write.
func (s *shipped) reference() string { return upstreamName + "/" + s.tag }

// shipment is one image of each kind.
func shipment(t *testing.T) []*shipped {
	t.Helper()
	docker, tree, zstd, sixty := busyboxImage(t, "docker"), debianImage(t, "tree"), zstdImage(t, "zstd"), sixtyLayers(t, "sixty")
	multi := multiPlatform(t, "multi")
	greetingSum := fmt.Sprintf("%x  /greeting\n", sha256.Sum256([]byte("tree\n")))
	return []*shipped{
		{tag: "team/docker:1", what: docker, runs: docker, prints: "docker\n"},
		{tag: "team/tree:12", what: tree, runs: tree, command: []string{"/usr/bin/sha256sum", "/greeting"}, prints: greetingSum},
		{tag: "team/zstd:1", what: zstd, runs: zstd, prints: "zstd\n"},
		{tag: "team/sixty:1", what: sixty, runs: sixty, command: []string{"/bin/sh", "-c", "ls /layers | wc -l"}, prints: "59\n"},
		{tag: "team/deep/multi:1", what: multi, runs: imageFor(t, multi, "amd64"), prints: "multi\n"},
	}
}

// ship pushes images and gives the blobs that a machine of this platform needs of them.
func ship(t *testing.T, to *registry, images []*shipped) []digest.Digest {
	t.Helper()
	blobs := map[digest.Digest]bool{}
	for _, image := range images {
		image.digest = to.push(t, image.tag, image.what)
		for _, hash := range blobsOf(t, image.runs) {
			blobs[hash] = true
		}
	}
	return slices.Collect(maps.Keys(blobs))
}

// mustArrive pulls an image into a containerd and runs it there.
func (s *shipped) mustArrive(t *testing.T, c *containerd) {
	t.Helper()
	c.pull(t, s.reference())
	if got := c.digest(t, s.reference()); got != s.digest {
		t.Errorf("%s has %s as %s, want %s", c.version.name, s.reference(), got, s.digest)
	}
	if got := c.run(t, s.reference(), s.command...); got != s.prints {
		t.Errorf("%s of %s printed %q, want %q", c.version.name, s.reference(), got, s.prints)
	}
}

// Point 1 of what must be shown: containerd pulls and runs through the mirror and knows nothing of credentials, which the registry demands.
// The second containerd gets all from the cache: the registry's own log still shows one authorized fetch of each blob.
func TestContainerdPullsWithoutCredentials(t *testing.T) {
	for _, test := range []struct {
		name     string
		tokens   bool
		versions []containerdVersion
	}{
		{"htpasswd", false, []containerdVersion{containerd16, containerd24}},
		{"bearer tokens", true, []containerdVersion{containerd24, containerd16}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var tokens *tokenService
			if test.tokens {
				tokens = startTokenService(t)
			}
			upstream := startRegistry(t, tokens)
			images := shipment(t)
			blobs := ship(t, upstream, images)
			d := startDaemon(t, upstream.url())
			for _, version := range test.versions {
				c := startContainerd(t, version, d)
				for _, image := range images {
					image.mustArrive(t, c)
				}
			}
			upstream.requireFetchedOnce(t, blobs)
			d.requireTrueStore(t)
			if tokens != nil {
				requireTokensAskedOnce(t, tokens)
			}
		})
	}
}

// requireTokensAskedOnce holds imagecache to one token for a scope while that token lasts, however many blobs it fetches with it.
func requireTokensAskedOnce(t *testing.T, tokens *tokenService) {
	t.Helper()
	count := map[tokenRequest]int{}
	for _, request := range tokens.asked() {
		count[request]++
		if request.user != puller {
			t.Errorf("somebody asked for a token as %q: %+v", request.user, request)
		}
	}
	for request, n := range count {
		if n > 1 {
			t.Errorf("imagecache asked %d times for the same token: %+v", n, request)
		}
	}
	if len(count) == 0 {
		t.Error("imagecache asked for no token")
	}
}

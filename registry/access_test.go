package registry

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// private makes a cache in front of an upstream that wants a credential,
// which the operator has.
func private(t *testing.T, access string) (*cache, *registrytest.Registry) {
	up := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBasic})
	return newCache(t, up, func(c *cache) {
		file := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(file, []byte("open sesame\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		c.options.Username, c.options.PasswordFile, c.options.Access = "alice", file, access
	}), up
}

func TestWhatWasGotWithASecretIsOpenWhereTheOperatorSaysSo(t *testing.T) {
	c, up := private(t, AccessOpen)
	image := up.AddImage("team/app", "v1", []byte("layer"))
	c.expect(ref, image.Digest, OutcomeMiss)
	if b, _, err := c.Blob(context.Background(), reference(t, ref).Repository, image.Layers[0].Digest); err != nil {
		t.Error(err)
	} else {
		b.Close()
	}
}

func TestWhatWasGotWithASecretIsRefusedToCallersWithoutARight(t *testing.T) {
	c, up := private(t, AccessProven)
	image := up.AddImage("team/app", "v1", []byte("layer"))
	in := reference(t, ref).Repository
	refuseAll := func(when string) {
		t.Helper()
		c.refused(ref, CodeUnauthorized)
		c.refused("registry.test/team/app@"+image.Digest.String(), CodeUnauthorized)
		for _, d := range []digest.Digest{image.Layers[0].Digest, image.Config.Digest} {
			if b, _, err := c.Blob(context.Background(), in, d); err == nil {
				b.Close()
				t.Errorf("%s: blob %s was given", when, d)
			}
			if _, _, err := c.BlobInfo(context.Background(), in, d); err == nil {
				t.Errorf("%s: size of blob %s was told", when, d)
			}
		}
		if tags, _, err := c.Tags(context.Background(), in); err == nil {
			t.Errorf("%s: tags were listed: %v", when, tags)
		}
	}
	refuseAll("cold")
	// The operator's own pull, with the credential, works all the same.
	c.pin(ref)
	refuseAll("cached")
	// Another repository must not lend its name to a digest it does not hold.
	other := Repository{Registry: "registry.test", Path: "team/other"}
	if b, _, err := c.Blob(context.Background(), other, image.Layers[0].Digest); err == nil {
		b.Close()
		t.Error("a digest was enough to get a blob")
	}
	c.restart()
	refuseAll("after a restart")
	c.clock.advance(time.Hour)
	refuseAll("when old")
	up.Stop()
	if _, _, err := c.Manifest(context.Background(), reference(t, ref)); err == nil {
		t.Error("given while upstream is away")
	}
}

func TestWhatUpstreamGivesToAnybodyIsServedToAnybody(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("layer"))
	c := newCache(t, up, func(c *cache) { c.open = false })
	c.expect(ref, image.Digest, OutcomeMiss)
	in := reference(t, ref).Repository
	b, _, err := c.Blob(context.Background(), in, image.Layers[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	c.settled(image.Digest, image.Layers[0].Digest)
	up.Stop()
	c.restart()
	c.expect(ref, image.Digest, OutcomeHit)
	if b, _, err := c.Blob(context.Background(), in, image.Layers[0].Digest); err != nil {
		t.Error("a public blob was refused while upstream is away:", err)
	} else {
		b.Close()
	}
}

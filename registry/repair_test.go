package registry

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// spoil flips a byte in the middle of a sealed blob.
func (c *cache) spoil(d digest.Digest) {
	c.t.Helper()
	f, err := os.OpenFile(filepath.Join(c.root, "blobs", d.Algorithm().String(), d.Encoded()), os.O_RDWR, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		c.t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, info.Size()/2); err != nil {
		c.t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, info.Size()/2); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cache) pull(ref string) {
	c.t.Helper()
	if _, err := c.Pull(context.Background(), reference(c.t, ref), nil, nil); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cache) scrub() Scrubbed {
	c.t.Helper()
	done, err := c.Scrub(context.Background(), true, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return done
}

// parts are the digests of an image of one layer.
func parts(image registrytest.Image, layer []byte) map[string]digest.Digest {
	return map[string]digest.Digest{
		"manifest": image.Digest, "config": image.Config.Digest, "layer": digest.FromBytes(layer),
	}
}

func TestScrubRepairsFromUpstream(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	layer := registrytest.Bytes(1, 100_000)
	image := up.AddImage("team/app", "v1", layer)
	for name, d := range parts(image, layer) {
		t.Run(name, func(t *testing.T) {
			c := newCache(t, up, nil)
			c.pull(ref)
			c.restart() // nothing is in memory
			c.spoil(d)
			done := c.scrub()
			if len(done.Unrepaired) != 0 {
				t.Errorf("%+v", done)
			}
			// A manifest may have been read, and found out, by who lists images.
			if name != "manifest" && (done.Blobs != 3 || done.Rotten != 1 || done.Repaired != 1) {
				t.Errorf("%+v", done)
			}
			eventually(t, func() bool {
				s := c.Status(context.Background())
				return s.Quarantined == 1 && s.Repaired == 1 && s.Unrepaired == 0 && s.BytesScrubbed == done.Bytes
			})
			if again := c.scrub(); again.Blobs != 3 || again.Rotten != 0 {
				t.Errorf("again: %+v", again)
			}
		})
	}
}

// A registry.db that was lost takes with it which repository holds what: those of
// the images that need a blob are asked.
func TestScrubRepairsAfterTheStateWasLost(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	layer := registrytest.Bytes(1, 100_000)
	image := up.AddImage("team/app", "v1", layer)
	for name, d := range parts(image, layer) {
		t.Run(name, func(t *testing.T) {
			c := newCache(t, up, nil)
			c.pull(ref)
			c.stop()
			if err := os.Remove(filepath.Join(c.root, fileState)); err != nil {
				t.Fatal(err)
			}
			c.start()
			c.spoil(d)
			if done := c.scrub(); len(done.Unrepaired) != 0 {
				t.Errorf("%+v", done)
			}
			eventually(t, func() bool { return c.Status(context.Background()).Repaired == 1 })
		})
	}
}

func TestScrubReportsWhatNobodyHasAnyMore(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	layer := registrytest.Bytes(1, 100_000)
	image := up.AddImage("team/app", "v1", layer)
	for name, d := range parts(image, layer) {
		t.Run(name, func(t *testing.T) {
			c := newCache(t, up, nil)
			c.pull(ref)
			c.restart()
			c.spoil(d)
			c.manifests.Purge() // some were read meanwhile
			up.Add(registrytest.Rule{Path: d.Encoded(), Lie: registrytest.Answer(404, "")})
			defer up.Heal()
			for range 2 { // and at the next scrub, and after a restart
				done := c.scrub()
				if done.Repaired != 0 || len(done.Unrepaired) != 1 {
					t.Fatalf("%+v", done)
				}
				u := done.Unrepaired[0]
				if u.Digest != d.String() || u.Reason == "" || u.Damage == "" || len(u.References) != 1 || u.References[0] != ref {
					t.Errorf("%+v", u)
				}
				if s := c.Status(context.Background()); s.Unrepaired != 1 {
					t.Errorf("%+v", s)
				}
				c.restart()
			}
			// What nobody needs any more is not reported any more.
			if _, err := c.Remove(context.Background(), reference(t, ref)); err != nil && name != "manifest" {
				t.Fatal(err)
			}
			if done := c.scrub(); len(done.Unrepaired) != 0 && name != "manifest" {
				t.Errorf("after removal: %+v", done)
			}
		})
	}
}

func TestRotIsRepairedByItselfWhenUpstreamComesBack(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	layer := registrytest.Bytes(1, 100_000)
	up.AddImage("team/app", "v1", layer)
	d := digest.FromBytes(layer)
	c := newCache(t, up, nil)
	c.pull(ref)
	c.spoil(d)
	up.Stop()
	c.clock.advance(8 * 24 * time.Hour)
	b, _, err := c.Blob(context.Background(), reference(t, ref).Repository, d)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, b); err == nil {
		t.Errorf("%d bytes of a rotten blob were completed", n)
	}
	b.Close()
	eventually(t, func() bool { return c.Status(context.Background()).Unrepaired == 1 && c.failedRepairs() == 1 })
	up.Start(t)
	c.clock.advance(time.Hour) // the next try is due
	c.restart()                // and is begun
	eventually(t, func() bool { return c.Status(context.Background()).Unrepaired == 0 })
	c.settled(d)
}

func (c *cache) failedRepairs() int {
	c.repairs.mu.Lock()
	defer c.repairs.mu.Unlock()
	return len(c.repairs.of)
}

func TestPinIsRepairedAtOnce(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	layer := registrytest.Bytes(1, 100_000)
	up.AddImage("team/app", "v1", layer)
	c := newCache(t, up, nil)
	c.pin(ref)
	d := digest.FromBytes(layer)
	c.spoil(d)
	if err := c.store.Quarantine(d); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return c.onlyPin().Complete })
	c.settled(d)
	if n := up.Count("GET", "/blobs/"+d.String()); n != 2 {
		t.Errorf("the layer was fetched %d times", n)
	}
}

func TestRottenManifestIsFetchedAgain(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("one"))
	for _, damage := range []func(path string) error{
		func(path string) error { return os.WriteFile(path, []byte("rot"), 0o600) },
		func(path string) error { return os.Truncate(path, maxManifest+1) },
		os.Remove,
	} {
		c := newCache(t, up, nil)
		c.pull(ref)
		c.restart()
		if err := damage(filepath.Join(c.root, "blobs", "sha256", image.Digest.Encoded())); err != nil {
			t.Fatal(err)
		}
		if m, _ := c.get(ref); m.Descriptor.Digest != image.Digest {
			t.Errorf("answered %s", m.Descriptor.Digest)
		}
		c.settled(image.Digest)
		eventually(t, func() bool { return c.Status(context.Background()).Unrepaired == 0 })
	}
}

func TestManifestIsRepairedFromMemory(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, nil)
	c.pull(ref)
	up.Stop()
	c.spoil(image.Digest)
	if done := c.scrub(); done.Rotten != 1 || done.Repaired != 1 {
		t.Errorf("%+v", done)
	}
}

func TestHeadOfACutBlobTellsItsTrueSize(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	layer := registrytest.Bytes(1, 100_000)
	up.AddImage("team/app", "v1", layer)
	c := newCache(t, up, nil)
	c.pull(ref)
	d := digest.FromBytes(layer)
	if err := os.Truncate(filepath.Join(c.root, "blobs", "sha256", d.Encoded()), 5); err != nil {
		t.Fatal(err)
	}
	size, _, err := c.BlobInfo(context.Background(), reference(t, ref).Repository, d)
	if err != nil || size != int64(len(layer)) {
		t.Errorf("%d bytes, %v", size, err)
	}
}

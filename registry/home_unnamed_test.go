package registry

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// pushed reports whether a repository has what is of these bytes, without being
// told so as a client would be.
func (c *cache) pushed(in Repository, content string) bool {
	_, err := (&home{c.Registry}).row(in, digest.FromString(content))
	return err == nil
}

// sweepTwice does what two looks at blobs that nothing names do, toldFor apart.
func (c *cache) sweepTwice(between func()) {
	c.sweepUnnamed(false)
	c.clock.advance(toldFor)
	if between != nil {
		between()
	}
	c.sweepUnnamed(false)
}

func TestBlobsThatNothingNamesAreLetGo(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	d := c.mustPush("local/app:v1", "named")
	c.pushBlob(atHome, "alone")
	c.sweepTwice(nil)
	if !c.pushed(atHome, "alone") {
		t.Error("a blob that was pushed just now is let go")
	}
	c.clock.advance(unnamedKept)
	c.sweepTwice(nil)
	if c.pushed(atHome, "alone") || !c.pushed(atHome, "named") || !c.pushed(atHome, "{}") {
		t.Error("what nothing names is kept, or what a manifest names is not")
	}
	if err := c.DeleteManifest(t.Context(), atHome, d); err != nil {
		t.Fatal(err)
	}
	c.clock.advance(toldFor - time.Second)
	c.sweepUnnamed(false)
	if !c.pushed(atHome, "named") {
		t.Error("the layer of a manifest that was deleted goes before who was told of it can name it")
	}
	c.clock.advance(time.Second)
	c.sweepUnnamed(false)
	if c.pushed(atHome, "named") {
		t.Error("the layer of a manifest that was deleted is kept")
	}
}

// TestASweepWritesOnce, however much goes: pushes wait for it.
func TestASweepWritesOnce(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	for n := range 50 {
		c.pushBlob(atHome, fmt.Sprint("layer", n))
	}
	c.clock.advance(unnamedKept + time.Second)
	c.sweepUnnamed(false)
	c.clock.advance(toldFor)
	before := c.written()
	c.sweepUnnamed(false)
	if n := c.written() - before; n != 1 || c.pushed(atHome, "layer0") || c.pushed(atHome, "layer49") {
		t.Errorf("%d transactions for what is to go in one", n)
	}
}

// written is how many transactions changed the state so far.
func (c *cache) written() (n int) {
	c.t.Helper()
	if err := c.state.db.View(func(tx *bolt.Tx) error { n = tx.ID(); return nil }); err != nil {
		c.t.Fatal(err)
	}
	return n
}

// TestWhatAClientWasToldToBeThereStays for as long as it may take to push the
// manifest: it does not send what is there.
func TestWhatAClientWasToldToBeThereStays(t *testing.T) {
	layer := digest.FromString("layer")
	for name, tell := range map[string]func(c *cache) error{
		"HEAD": func(c *cache) error { _, _, err := c.BlobInfo(c.t.Context(), atHome, layer); return err },
		"GET": func(c *cache) error {
			b, _, err := c.Blob(c.t.Context(), atHome, layer)
			if err == nil {
				err = b.Close()
			}
			return err
		},
		"upload": func(c *cache) error { c.pushBlob(atHome, "layer"); return nil },
		"mount": func(c *cache) error {
			other := Repository{Registry: LocalHome, Path: "other"}
			c.pushBlob(other, "layer")
			_, err := c.MountBlob(c.t.Context(), atHome, layer, other)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
			d := c.mustPush("local/app:v1", "layer")
			if err := c.DeleteManifest(t.Context(), atHome, d); err != nil {
				t.Fatal(err)
			}
			c.sweepTwice(func() {
				if err := tell(c); err != nil {
					t.Fatal(err)
				}
			})
			c.clock.advance(toldFor - time.Second)
			if _, err := c.Collect(t.Context(), false); err != nil {
				t.Fatal(err)
			}
			if !c.pushed(atHome, "layer") {
				t.Error("it went though a client was told that it is there")
			}
		})
	}
}

func TestNothingIsSweptSoonAfterARestart(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	d := c.mustPush("local/app:v1", "layer")
	if err := c.DeleteManifest(t.Context(), atHome, d); err != nil {
		t.Fatal(err)
	}
	c.clock.advance(toldFor)
	c.restart() // which forgets whom it told what
	c.sweepUnnamed(false)
	c.clock.advance(toldFor - time.Second)
	c.sweepUnnamed(false)
	if !c.pushed(atHome, "layer") {
		t.Error("it went before a client could name what it was told of before the restart")
	}
	c.clock.advance(time.Second)
	c.sweepUnnamed(false)
	if c.pushed(atHome, "layer") {
		t.Error("it stays for ever")
	}
}

// TestNobodyIsToldOfWhatIsBeingLetGo: it would not send it.
func TestNobodyIsToldOfWhatIsBeingLetGo(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	d := c.pushBlob(atHome, "layer").Digest
	key := string(holdKey(atHome, d))
	c.unnamed.note(key, c.clock.now().Add(-toldFor))
	if !c.unnamed.due(key, c.clock.now(), true) {
		t.Fatal("it is not due")
	}
	_, _, err := c.BlobInfo(t.Context(), atHome, d)
	wantCode(t, err, CodeBlobUnknown)
	_, _, err = c.Blob(t.Context(), atHome, d)
	wantCode(t, err, CodeBlobUnknown)
	c.unnamed.forget(key)
	if _, _, err := c.BlobInfo(t.Context(), atHome, d); err != nil {
		t.Error(err)
	}
}

// TestWhatADeletedImageNeededAloneGoesWithACollection and nothing that another
// manifest, another repository or a push that is under way needs.
func TestWhatADeletedImageNeededAloneGoesWithACollection(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	other := Repository{Registry: LocalHome, Path: "other"}
	d := c.mustPush("local/app:v1", "its own")
	c.mustPush("local/app:v2", "another's")
	c.mustPush("local/app:v3", "this image's alone")
	c.mustPush("local/other:v1", "its own")
	c.pushBlob(atHome, "coming")
	alone := reference(t, "local/app:v3")
	m, _, err := c.Manifest(t.Context(), alone)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []digest.Digest{d, m.Descriptor.Digest} {
		if err := c.DeleteManifest(t.Context(), atHome, d); err != nil {
			t.Fatal(err)
		}
		wantCode(t, c.DeleteManifest(t.Context(), atHome, d), CodeManifestUnknown)
	}
	for _, step := range []struct {
		after      time.Duration
		dryRun     bool
		gone, kept int
	}{{0, false, 0, 2}, {toldFor, true, 2, 0}, {0, false, 2, 0}, {toldFor, false, 0, 0}} {
		c.clock.advance(step.after)
		told, err := c.Collect(context.Background(), step.dryRun)
		if u := told.Unnamed; err != nil || u.Gone != step.gone || u.Kept != step.kept {
			t.Errorf("%+v: %+v, %v", step, u, err)
		}
	}
	for content, want := range map[string]bool{"its own": false, "this image's alone": false, "another's": true, "{}": true, "coming": true} {
		if c.pushed(atHome, content) != want {
			t.Errorf("%s: want it there: %t", content, want)
		}
	}
	if !c.pushed(other, "its own") {
		t.Error("it is gone from another repository")
	}
	for d, want := range map[digest.Digest]bool{digest.FromString("its own"): true, digest.FromString("this image's alone"): false, m.Descriptor.Digest: false} {
		if _, err := c.store.Stat(d); (err == nil) != want {
			t.Errorf("bytes of %s: %v, want them here: %t", d, err, want)
		}
	}
}

// What is cached of an upstream stays, whatever is deleted from a home.
func TestBytesThatAnUpstreamHasShownTooStay(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	c := newCache(t, up, func(c *cache) { c.open = false })
	layer := up.AddBlob("team/app", []byte("shared"))
	in := Repository{Registry: "registry.test", Path: "team/app"}
	c.read("registry.test/team/app", layer)
	eventually(t, func() bool { // as soon as it is sealed
		ok, err := c.MountBlob(t.Context(), atHome, layer, in)
		return ok && err == nil
	})
	if err := c.DeleteBlob(t.Context(), atHome, layer); err != nil {
		t.Fatal(err)
	}
	c.sweepUnnamed(false)
	if _, err := c.store.Stat(layer); err != nil {
		t.Error(err)
	}
}

// TestAMountHoldsWhateverIsDeletedMeanwhile: where it was answered with yes, the
// blob is there, with its bytes.
func TestAMountHoldsWhateverIsDeletedMeanwhile(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	from := Repository{Registry: LocalHome, Path: "from"}
	d := digest.FromString("layer")
	for range 30 {
		c.pushBlob(from, "layer")
		var mounted bool
		var work sync.WaitGroup
		work.Go(func() {
			var err error
			if mounted, err = c.MountBlob(context.Background(), atHome, d, from); err != nil {
				t.Error(err)
			}
		})
		work.Go(func() {
			if err := c.DeleteBlob(context.Background(), from, d); err != nil {
				t.Error(err)
			}
			c.sweepUnnamed(false)
		})
		work.Wait()
		b, _, err := c.Blob(t.Context(), atHome, d)
		if mounted != (err == nil) {
			t.Fatalf("mounted: %t, then %v", mounted, err)
		}
		if err == nil {
			b.Close()
			if err := c.DeleteBlob(t.Context(), atHome, d); err != nil {
				t.Fatal(err)
			}
		}
	}
}

package registry

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/registry/registrytest"
)

var atHome = Repository{Registry: LocalHome, Path: "app"}

func (c *cache) pushBlob(in Repository, content string) specs.Descriptor {
	c.t.Helper()
	d := digest.FromString(content)
	u, err := c.StartUpload(c.t.Context(), in, "")
	if err == nil {
		err = c.FinishUpload(c.t.Context(), in, u.ID, d, Piece{From: 0, Length: -1, Body: strings.NewReader(content)})
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return specs.Descriptor{MediaType: specs.MediaTypeImageLayer, Digest: d, Size: int64(len(content))}
}

func (c *cache) pushImage(ref, layer string) (digest.Digest, error) {
	c.t.Helper()
	to := reference(c.t, ref)
	m := specs.Manifest{MediaType: specs.MediaTypeImageManifest, Config: c.pushBlob(to.Repository, "{}"), Layers: []specs.Descriptor{c.pushBlob(to.Repository, layer)}}
	m.SchemaVersion = 2
	content, err := json.Marshal(m)
	if err != nil {
		c.t.Fatal(err)
	}
	pushed, err := c.PutManifest(c.t.Context(), to, m.MediaType, content)
	return pushed.Digest, err
}

func TestAPinnedTagOfAHomeIsNotMoved(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	d, err := c.pushImage("local/app:v1", "one")
	if err != nil {
		t.Fatal(err)
	}
	pin, err := c.Pin(t.Context(), reference(t, "local/app:v1"), []string{PlatformAll}, nil)
	if err != nil || pin.Digest != d.String() {
		t.Fatalf("%+v, %v", pin, err)
	}
	_, err = c.pushImage("local/app:v1", "two")
	wantCode(t, err, CodePinned)
	wantCode(t, c.DeleteTag(t.Context(), reference(t, "local/app:v1")), CodePinned)
	wantCode(t, c.DeleteManifest(t.Context(), atHome, d), CodePinned)
	if _, err := c.pushImage("local/app:v1", "one"); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if err := c.Unpin(t.Context(), reference(t, "local/app:v1")); err != nil {
		t.Fatal(err)
	}
	two, err := c.pushImage("local/app:v1", "two")
	if m, _, merr := c.Manifest(t.Context(), reference(t, "local/app:v1")); err != nil || merr != nil || m.Descriptor.Digest != two {
		t.Errorf("after unpin: %v, %v", err, merr)
	}
}

func TestAnImageThatIsRemovedFromAHomeGoesWithItsOwnLayers(t *testing.T) {
	for name, by := range map[string]func(digest.Digest) string{
		"tag":    func(digest.Digest) string { return "local/app:v1" },
		"digest": func(d digest.Digest) string { return "local/app@" + d.String() },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
			d, err := c.pushImage("local/app:v1", "its own")
			if err == nil {
				_, err = c.pushImage("local/app:v2", "another")
			}
			if err != nil {
				t.Fatal(err)
			}
			removed, err := c.Remove(t.Context(), reference(t, by(d)))
			if err != nil || removed.Blobs != 2 {
				t.Errorf("%+v, %v; want the manifest and its own layer", removed, err)
			}
			for content, want := range map[string]bool{"its own": false, "another": true, "{}": true} {
				if _, err := c.store.Stat(digest.FromString(content)); (err == nil) != want {
					t.Errorf("%s: %v, want it here: %t", content, err, want)
				}
			}
		})
	}
}

func TestAnImageOfAHomeThatIsStillMeantIsNotRemoved(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	for _, ref := range []string{"local/app:v1", "local/app:v2"} {
		if _, err := c.pushImage(ref, "shared"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Remove(t.Context(), reference(t, "local/app:v1")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Manifest(t.Context(), reference(t, "local/app:v2")); err != nil {
		t.Error(err)
	}
	if _, _, err := c.BlobInfo(t.Context(), atHome, digest.FromString("shared")); err != nil {
		t.Error(err)
	}
}

// Without its root what was pushed would go when room is wanted.
func TestWhatIsPushedWhileItIsDeletedKeepsItsRoot(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	d := c.pushBlob(atHome, "again").Digest
	for range 50 {
		var deleting sync.WaitGroup
		deleting.Go(func() {
			if err := c.DeleteBlob(context.Background(), atHome, d); err != nil {
				t.Error(err)
			}
		})
		c.pushBlob(atHome, "again")
		deleting.Wait()
		_, err := c.homeOf(atHome).home.row(atHome, d)
		roots, errRoots := c.store.Roots()
		if errRoots != nil {
			t.Fatal(errRoots)
		}
		if _, rooted := roots[homeRoot(atHome, d)]; rooted != (err == nil) {
			t.Fatalf("pushed: %v, has a root: %t", err, rooted)
		}
		if err != nil {
			c.pushBlob(atHome, "again")
		}
	}
}

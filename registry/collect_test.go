package registry

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry/registrytest"
)

func app(tag string) string { return "registry.test/team/app:" + tag }

// pullThen pulls an image, and an hour passes.
func (c *cache) pullThen(ref string) {
	c.t.Helper()
	c.pull(ref)
	c.clock.advance(time.Hour)
}

// lack makes so many bytes of the disk lack, for all that follows.
func (c *cache) lack(bytes int64) { c.free.Store(1e6 - bytes) }

func (c *cache) collect(dryRun bool) Collection {
	c.t.Helper()
	told, err := c.Collect(context.Background(), dryRun)
	if err != nil {
		c.t.Fatal(err)
	}
	return told
}

// collectLacking collects while so many bytes of the disk lack, and not before
// or after.
func (c *cache) collectLacking(bytes int64, dryRun bool) Collection {
	c.t.Helper()
	before := c.free.Swap(1e6 - bytes)
	defer c.free.Store(before)
	return c.collect(dryRun)
}

func (c *cache) wantEvicted(told Collection, want ...string) {
	c.t.Helper()
	var got []string
	for _, e := range told.Evicted {
		got = append(got, e.References...)
	}
	if !slices.Equal(got, want) {
		c.t.Errorf("evicted %v, want %v", got, want)
	}
}

// wantOnly wants one image to go, for want of free space, with its config and
// the layer that it alone has.
func (c *cache) wantOnly(told Collection, ref string, usage ImageUsage) {
	c.t.Helper()
	c.wantEvicted(told, ref)
	if len(told.Evicted) != 1 {
		return
	}
	e := told.Evicted[0]
	if e.Reason != string(layerstore.ForFree) || e.Bytes != usage.Unique || e.Blobs != 3 || e.UsedAt.IsZero() || e.Digest != usage.Digest {
		c.t.Errorf("%+v", e)
	}
	if told.Blobs != 3 || told.Bytes != usage.Unique || told.Short != 0 || len(told.Kept) != 0 {
		c.t.Errorf("%+v", told)
	}
}

// wantListed wants exactly these references in images and in df.
func (c *cache) wantListed(want ...string) {
	c.t.Helper()
	images, err := c.Images(context.Background())
	if err != nil {
		c.t.Fatal(err)
	}
	usage, err := c.DiskUsage(context.Background())
	if err != nil {
		c.t.Fatal(err)
	}
	var listed, used []string
	for _, i := range images {
		listed = append(listed, i.Reference)
	}
	for _, i := range usage.Images {
		used = append(used, i.Reference)
	}
	if !slices.Equal(listed, want) || !slices.Equal(used, want) {
		c.t.Errorf("images lists %v and df %v, want %v", listed, used, want)
	}
}

// usage is what an image takes.
func (c *cache) usage(ref string) ImageUsage {
	c.t.Helper()
	usage, err := c.DiskUsage(context.Background())
	if err != nil {
		c.t.Fatal(err)
	}
	for _, i := range usage.Images {
		if i.Reference == ref {
			return i
		}
	}
	c.t.Fatalf("%s is not in df", ref)
	return ImageUsage{}
}

// threeImages is a cache with v1, v2 and v3, pulled in that order, that share a
// base of 20 kB and have 300 kB each.
func threeImages(t *testing.T) (*cache, *registrytest.Registry) {
	up := registrytest.New(t, registrytest.Options{})
	base := registrytest.Bytes(1, 20_000)
	c := newCache(t, up, nil)
	for seed, tag := range []string{"v1", "v2", "v3"} {
		up.AddImage("team/app", tag, base, registrytest.Bytes(byte(seed+2), 300_000))
		c.pullThen(app(tag))
	}
	return c, up
}

func TestCollectNamesWhatGoesAndListsForgetIt(t *testing.T) {
	c, _ := threeImages(t)
	if told := c.collect(true); len(told.Evicted) != 0 || told.Bytes != 0 || told.Short != 0 {
		t.Errorf("with room enough %+v would go", told)
	}
	c.get(app("v1")) // revalidates: the manifest is what counts
	c.clock.advance(time.Hour)
	v2 := c.usage(app("v2"))
	dry := c.collectLacking(1000, true)
	c.wantOnly(dry, app("v2"), v2)
	if !dry.DryRun {
		t.Error("a dry run does not say that it was one")
	}
	c.wantListed(app("v1"), app("v2"), app("v3"))
	c.wantOnly(c.collectLacking(1000, false), app("v2"), v2)
	c.wantListed(app("v1"), app("v3"))
	if s := c.Status(context.Background()); s.Evictions != 3 || s.EvictedBytes != v2.Unique {
		t.Errorf("%d blobs of %d bytes evicted, want 3 of %d", s.Evictions, s.EvictedBytes, v2.Unique)
	}
	c.restart()
	c.wantListed(app("v1"), app("v3"))
}

// The row of the tag knows what to fetch, also when upstream has moved on.
func TestEvictedImageIsFetchedAgainAndNotAnsweredFromMemory(t *testing.T) {
	c, up := threeImages(t)
	m, _ := c.get(app("v2"))
	c.clock.advance(time.Hour)
	c.lack(1e6)
	c.collect(false)
	c.wantListed()
	up.Stop()
	c.refused(app("v2"), CodeUnavailable)
	up.Start(t)
	c.free.Store(1e9)
	c.clock.advance(time.Hour)
	c.expect(app("v2"), m.Descriptor.Digest, OutcomeMiss)
	c.settled(m.Descriptor.Digest)
	c.pullThen(app("v2"))
	c.wantListed(app("v2"))
	up.Stop()
	c.expect(app("v2"), m.Descriptor.Digest, OutcomeStale)
}

func TestPinnedImagesStayAndAreNamed(t *testing.T) {
	c, _ := threeImages(t)
	c.pin(app("v1"))
	c.clock.advance(time.Hour)
	told := c.collectLacking(1e6, false)
	c.wantEvicted(told, app("v2"), app("v3"))
	c.wantListed(app("v1"))
	if len(told.Kept) != 1 || !slices.Equal(told.Kept[0].References, []string{app("v1")}) || told.Kept[0].Reason != string(layerstore.ByRoot) || told.Short <= 0 {
		t.Errorf("kept %+v, short by %d", told.Kept, told.Short)
	}
	if p := c.onlyPin(); !p.Complete {
		t.Errorf("%+v", p)
	}
	if err := c.Unpin(context.Background(), reference(t, app("v1"))); err != nil {
		t.Fatal(err)
	}
	c.wantEvicted(c.collectLacking(1e6, false), app("v1"))
	c.wantListed()
}

// The layers that are here already are as old as can be while the rest comes.
func TestPullUnderWayKeepsWhatItHas(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", registrytest.Bytes(1, 50_000), registrytest.Bytes(2, 50_000))
	slow := "/blobs/" + image.Layers[1].Digest.String()
	up.Add(registrytest.Rule{Path: slow, Lie: registrytest.Stall(100)})
	c := newCache(t, up, nil)
	c.lack(1e6)
	pulled := make(chan error, 1)
	go func() {
		_, err := c.Pull(context.Background(), reference(t, app("v1")), nil, nil)
		pulled <- err
	}()
	up.Wait(t, "GET", slow, 1)
	c.settled(image.Digest, image.Layers[0].Digest)
	c.clock.advance(time.Hour)
	told := c.collect(false)
	if len(told.Evicted) != 0 || len(told.Kept) != 1 || told.Kept[0].Reason != string(layerstore.ByLease) {
		t.Errorf("%+v", told)
	}
	up.Release()
	up.Heal()
	if err := <-pulled; err != nil {
		t.Fatal(err)
	}
	if got := up.Count("GET", "/blobs/"+image.Layers[0].Digest.String()); got != 1 {
		t.Errorf("the layer that was here was fetched %d times", got)
	}
	c.clock.advance(time.Hour)
	c.collect(false)
	if _, err := c.store.Stat(image.Layers[0].Digest); !errors.Is(err, layerstore.ErrNotFound) {
		t.Errorf("after the pull: %v", err)
	}
}

// Who reads a manifest from the store while it goes must not hold it in memory.
func TestManifestThatWentIsNotRemembered(t *testing.T) {
	c, _ := threeImages(t)
	m, _ := c.get(app("v1"))
	c.clock.advance(time.Hour)
	c.lack(1e6)
	c.collect(false)
	c.remember(m)
	if _, err := c.local(m.Descriptor.Digest); !errors.Is(err, layerstore.ErrNotFound) {
		t.Errorf("local: %v, want not found", err)
	}
}

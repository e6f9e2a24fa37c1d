package registry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry/registrytest"
)

// shelf says what lies unpacked: blobs by diff ID.
type shelf struct {
	mu    sync.Mutex // guards forms
	forms map[digest.Digest][]digest.Digest
}

func (s *shelf) Stands(diffID, blob digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.forms[diffID], blob)
}

func (s *shelf) Standing() (all []digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, blobs := range s.forms {
		all = append(all, blobs...)
	}
	return all
}

// unpack says that layers, whose diff IDs are their digests, lie unpacked.
func (s *shelf) unpack(layers ...[]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range layers {
		s.forms[digest.FromBytes(l)] = []digest.Digest{digest.FromBytes(l)}
	}
}

func (s *shelf) rot() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.forms)
}

func droppingCache(t *testing.T, up *registrytest.Registry, policy string) (*cache, *shelf) {
	s := &shelf{forms: map[digest.Digest][]digest.Digest{}}
	return newCache(t, up, func(c *cache) {
		c.unpacked, c.drops = s, policy
		c.options.NoReadAhead = false
	}), s
}

// wantDropped drops what may be dropped, and wants exactly these layers not to be here.
func (c *cache) wantDropped(all [][]byte, gone ...int) {
	c.t.Helper()
	if err := c.dropUnused(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	for i, l := range all {
		_, absent := c.store.Stat(digest.FromBytes(l))
		if want := slices.Contains(gone, i); want != (absent != nil) {
			c.t.Errorf("layer %d is dropped: %v, want %v", i, absent != nil, want)
		}
	}
}

func layersOfBytes(n int) (all [][]byte) {
	for i := range n {
		all = append(all, registrytest.Bytes(byte(i), 10_000))
	}
	return all
}

func TestUnpackedLayersAreDroppedWhenNobodyUsesThem(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	l := layersOfBytes(2)
	up.AddImage("team/app", "v1", l...)
	c, s := droppingCache(t, up, DropUnpinned)
	c.pull(ref)
	s.unpack(l[0])
	c.wantDropped(l) // just used
	c.clock.advance(defaultDropAfter)
	c.wantDropped(l, 0)
	s.unpack(l[1])
	c.wantDropped(l, 0, 1)
	for range 2 {
		images, err := c.Images(t.Context())
		if err != nil || len(images) != 1 || !images[0].Complete || images[0].Dropped != 2 || images[0].Have != images[0].Want || len(images[0].Platforms) != 1 {
			t.Errorf("%+v, %v", images, err)
		}
		if told, err := c.Inspect(t.Context(), reference(t, ref)); err != nil || told.Manifests[0].Layers[0].Here || !told.Manifests[0].Layers[0].Dropped || told.Manifests[0].Config.Dropped {
			t.Errorf("%+v, %v", told, err)
		}
		drilled := c.drilled(ref)
		if !drilled.OK || len(drilled.Dropped) != 2 || drilled.Dropped[0].Reason != "dropped, unpacked here" {
			t.Errorf("%+v", drilled)
		}
		if u := c.usage(ref); u.Size >= 10_000 {
			t.Errorf("it takes %d bytes", u.Size)
		}
		c.restart() // nothing was remembered
	}

	// A pull through the snapshotter, and one by hand, fetch no layer.
	up.ForgetRequests()
	c.get(ref)
	c.pull(ref)
	c.idle()
	if n := up.Count(http.MethodGet, "/v2/team/app/blobs/"); n != 0 {
		t.Errorf("%d blobs were fetched", n)
	}
	// Who asks for the layer gets it, and it stays for a while.
	c.read("registry.test/team/app", digest.FromBytes(l[0]))
	c.settled(digest.FromBytes(l[0]))
	c.wantDropped(l, 1)
	c.clock.advance(defaultDropAfter)
	c.wantDropped(l, 0, 1)
	s.rot()
	if drilled := c.drilled(ref); drilled.OK || len(drilled.Lacks) != 2 {
		t.Errorf("forms have rotted, and %+v", drilled)
	}
}

func TestPinsKeepTheirLayersUnlessAllAreDropped(t *testing.T) {
	for policy, want := range map[string][]int{DropNever: nil, DropUnpinned: {1}, DropAll: {0, 1}} {
		t.Run(policy, func(t *testing.T) {
			up := registrytest.New(t, registrytest.Options{})
			l := layersOfBytes(2)
			up.AddImage("team/app", "v1", l[0])
			up.AddImage("team/app", "v2", l...)
			c, s := droppingCache(t, up, policy)
			c.pin(ref)
			c.pull("registry.test/team/app:v2")
			s.unpack(l...)
			c.clock.advance(defaultDropAfter)
			if policy != DropNever {
				c.wantDropped(l, want...)
			}
			c.completePins()
			if pin := c.onlyPin(); !pin.Complete || pin.State != PinComplete || pin.Dropped != len(want)/2 {
				t.Errorf("%+v", pin)
			}
			c.restart()
			c.completePins()
			if policy != DropNever {
				c.wantDropped(l, want...) // nothing was fetched again
			}
		})
	}
}

// A pin that is made of an image whose layers were dropped has them fetched, unless all may be.
func TestPinOfWhatWasDropped(t *testing.T) {
	for policy, fetched := range map[string]int{DropUnpinned: 1, DropAll: 0} {
		t.Run(policy, func(t *testing.T) {
			up := registrytest.New(t, registrytest.Options{})
			l := layersOfBytes(1)
			up.AddImage("team/app", "v1", l...)
			c, s := droppingCache(t, up, policy)
			c.pull(ref)
			s.unpack(l...)
			c.clock.advance(defaultDropAfter)
			c.wantDropped(l, 0)
			up.ForgetRequests()
			if pin := c.pin(ref); !pin.Complete || pin.Dropped != 1-fetched {
				t.Errorf("%+v", pin)
			}
			if n := up.Count(http.MethodGet, "/v2/team/app/blobs/"+digest.FromBytes(l[0]).String()); n != fetched {
				t.Errorf("fetched %d times", n)
			}
		})
	}
}

// A policy that is taken back counts at once: pins are completed again.
func TestPolicyTakenBack(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	l := layersOfBytes(1)
	up.AddImage("team/app", "v1", l...)
	c, s := droppingCache(t, up, DropAll)
	c.pin(ref)
	s.unpack(l...)
	c.clock.advance(defaultDropAfter)
	c.wantDropped(l, 0)
	c.drops = DropNever
	c.restart()
	c.settled(digest.FromBytes(l[0]))
}

func TestLayersThatAreNotDropped(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	l := layersOfBytes(1)
	layer := digest.FromBytes(l[0])
	for name, change := range map[string]func(c *cache, s *shelf){
		"another image says that it unpacks to something else": func(c *cache, s *shelf) {
			other := specs.Image{RootFS: specs.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString("else")}}}
			addImageOf(up, "team/other", "v1", jsonOf(t, other), l[0])
			c.pull("registry.test/team/other:v1")
		},
		"another image has not its config here": func(c *cache, s *shelf) {
			image := up.AddImage("team/third", "v1", l[0], []byte("more"))
			c.get("registry.test/team/third:v1")
			c.idle()
			if err := c.store.Delete(image.Config.Digest); err == nil {
				t.Error("the config of an image is deleted")
			}
			c.lose(image.Config.Digest)
		},
		"upstream does not have it any more": func(*cache, *shelf) {
			up.Add(registrytest.Rule{Path: "/v2/team/app/blobs/" + layer.String(), Lie: registrytest.Answer(http.StatusNotFound, "")})
		},
		"upstream is away": func(*cache, *shelf) { up.Stop() },
		"it was pushed here": func(c *cache, s *shelf) {
			c.pushBlob(Repository{Registry: LocalHome, Path: "team/app"}, string(l[0]))
			c.clock.advance(defaultDropAfter)
		},
		"its form cannot stand for it": func(_ *cache, s *shelf) { s.rot() },
	} {
		t.Run(name, func(t *testing.T) {
			up.AddImage("team/app", "v1", l...)
			c, s := droppingCache(t, up, DropAll)
			c.pull(ref)
			s.unpack(l...)
			change(c, s)
			c.clock.advance(defaultDropAfter)
			c.wantDropped(l)
			up.Heal()
			if name == "upstream is away" {
				up.Start(t)
				c.clock.advance(dropRest)
				c.wantDropped(l, 0)
			}
		})
	}
}

// A form that has to be made again has its blob fetched, as long as an image names it.
func TestOpenNeeded(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	l := layersOfBytes(1)
	image := up.AddImage("team/app", "v1", l...)
	c, s := droppingCache(t, up, DropAll)
	c.pull(ref)
	s.unpack(l...)
	c.clock.advance(defaultDropAfter)
	c.wantDropped(l, 0)
	b, err := c.OpenNeeded(t.Context(), image.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(b)
	if err != nil || string(content) != string(l[0]) {
		t.Errorf("%d bytes, %v", len(content), err)
	}
	b.Close()
	c.settled(image.Layers[0].Digest)
	c.clock.advance(defaultDropAfter)
	c.wantDropped(l, 0)
	if _, err := c.Remove(context.Background(), reference(t, ref)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.OpenNeeded(t.Context(), image.Layers[0]); !errors.Is(err, layerstore.ErrNotFound) {
		t.Errorf("nobody needs it, and %v", err)
	}
}

func TestExportFetchesWhatWasDropped(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	l := layersOfBytes(1)
	up.AddImage("team/app", "v1", l...)
	c, s := droppingCache(t, up, DropAll)
	c.pull(ref)
	s.unpack(l...)
	c.clock.advance(defaultDropAfter)
	c.wantDropped(l, 0)
	archive := c.exported(ExportOptions{References: []Reference{reference(t, ref)}})
	if len(archive) < len(l[0]) {
		t.Errorf("an archive of %d bytes", len(archive))
	}
	c.clock.advance(defaultDropAfter)
	c.wantDropped(l, 0)
	up.Stop()
	_, err := c.Export(t.Context(), ExportOptions{References: []Reference{reference(t, ref)}})
	if e, ok := err.(*Error); !ok || e.Code != CodeIncomplete {
		t.Errorf("without upstream: %v", err)
	}
}

func jsonOf(t *testing.T, v any) []byte {
	t.Helper()
	content, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// Of an index it is known for which platform an image is before its config is read.
func TestReadAheadLeavesOutWhatWasDropped(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	l := layersOfBytes(1)
	image := up.AddImage("team/app", "", l...)
	up.AddIndex("team/app", "v1", image)
	c, s := droppingCache(t, up, DropUnpinned)
	c.pull(ref)
	s.unpack(l...)
	c.clock.advance(defaultDropAfter)
	c.wantDropped(l, 0)
	c.restart()
	up.ForgetRequests()
	c.get(ref)
	c.get("registry.test/team/app@" + image.Digest.String())
	c.idle()
	if n := up.Count(http.MethodGet, "/v2/team/app/blobs/"); n != 0 {
		t.Errorf("%d blobs were fetched", n)
	}
}

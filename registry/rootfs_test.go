package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// passed collects what Options.Passed was told of.
type passed struct {
	mu     sync.Mutex
	images []RootFS
}

func (p *passed) tell(image RootFS) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.images = append(p.images, image)
}

// of counts how often it was told of a manifest.
func (p *passed) of(d digest.Digest) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, image := range p.images {
		if image.Manifest.Digest == d {
			n++
		}
	}
	return n
}

// own is this machine's platform, so that what is for others can be told apart.
var amd64, arm64 = specs.Platform{OS: "linux", Architecture: "amd64"}, specs.Platform{OS: "linux", Architecture: "arm64"}

func forAMD64(c *cache) { c.options.Platforms = []string{"linux/amd64"} }

// read reads a blob of a repository as a client does.
func (c *cache) read(repository string, d digest.Digest) []byte {
	c.t.Helper()
	b, _, err := c.Blob(context.Background(), reference(c.t, repository+":x").Repository, d)
	if err != nil {
		c.t.Fatal(err)
	}
	defer b.Close()
	content, err := io.ReadAll(b)
	if err != nil {
		c.t.Fatal(err)
	}
	return content
}

func chainsOf(image registrytest.Image) []digest.Digest {
	diffs := make([]digest.Digest, len(image.Layers))
	for i, l := range image.Layers {
		diffs[i] = l.Digest // the layers of tests are not compressed
	}
	return identity.ChainIDs(diffs)
}

func (c *cache) chainIs(chain digest.Digest, of registrytest.Image, layers int) {
	c.t.Helper()
	image, err := c.Chain(context.Background(), chain)
	if err != nil {
		c.t.Fatal(err)
	}
	if image.Manifest.Digest != of.Digest || len(image.Layers) != layers || image.Layers[layers-1].Chain != chain ||
		image.Layers[layers-1].Digest != of.Layers[layers-1].Digest {
		c.t.Errorf("chain gives %d layers of %s, want %d of %s", len(image.Layers), image.Manifest.Digest, layers, of.Digest)
	}
}

func (c *cache) noChain(chain digest.Digest) {
	c.t.Helper()
	if image, err := c.Chain(context.Background(), chain); !errors.Is(err, ErrNoChain) {
		c.t.Errorf("chain gives %v, %v, want none", image, err)
	}
}

// TestChainIsKnownWhenAClientHasTheConfig: containerd asks for it right after.
func TestChainIsKnownWhenAClientHasTheConfig(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("base"), []byte("middle"), []byte("top"))
	var told passed
	c := newCache(t, up, func(c *cache) { forAMD64(c); c.passed = told.tell })
	chains := chainsOf(image)
	c.get("registry.test/team/app:v1")
	c.noChain(chains[0]) // the config is not here
	c.read("registry.test/team/app", image.Config.Digest)
	for i, chain := range chains {
		c.chainIs(chain, image, i+1)
	}
	eventually(t, func() bool { return told.of(image.Digest) == 1 })
	c.settled(image.Digest, image.Config.Digest)
	up.Stop()
	c.restart()
	c.chainIs(chains[2], image, 3)
}

// TestPassedOnce: a client that comes again is no news, one after a restart is.
func TestPassedOnce(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("layer"))
	var told passed
	c := newCache(t, up, func(c *cache) { forAMD64(c); c.passed = told.tell })
	for range 3 {
		c.get("registry.test/team/app:v1")
		c.read("registry.test/team/app", image.Config.Digest)
	}
	eventually(t, func() bool { return told.of(image.Digest) == 1 })
	c.settled(image.Digest, image.Config.Digest)
	c.restart()
	c.get("registry.test/team/app:v1") // warm
	eventually(t, func() bool { return told.of(image.Digest) == 2 })
	if _, err := c.Pull(context.Background(), reference(t, "registry.test/team/app:v1"), nil, nil); err != nil {
		t.Fatal(err)
	}
	if n := told.of(image.Digest); n != 2 {
		t.Errorf("told %d times, want 2", n)
	}
}

func TestPassedByAPull(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	amd := up.AddImageFor("team/app", "", amd64, []byte("layer"))
	arm := up.AddImageFor("team/app", "", arm64, []byte("other layer"))
	up.AddIndex("team/app", "v1", amd, arm)
	var told passed
	c := newCache(t, up, func(c *cache) { forAMD64(c); c.passed = told.tell })
	if _, err := c.Pull(context.Background(), reference(t, "registry.test/team/app:v1"), []string{PlatformAll}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return told.of(amd.Digest) == 1 })
	c.chainIs(chainsOf(arm)[0], arm, 1) // it is indexed, though nobody is told of it
	if told.of(arm.Digest) != 0 {
		t.Error("told of an image for a platform that does not concern this upstream")
	}
}

// TestOnlyLookingIsNoPassage: who asks by HEAD has not come for the image.
func TestOnlyLookingIsNoPassage(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("layer"))
	c := newCache(t, up, forAMD64)
	if _, _, err := c.Manifest(OnlyLooking(context.Background()), reference(t, "registry.test/team/app:v1")); err != nil {
		t.Fatal(err)
	}
	if c.passages.told.Contains(image.Digest) {
		t.Error("the image passed by a HEAD")
	}
}

// addImageOf stores an image whose config is as given.
func addImageOf(up *registrytest.Registry, repository, tag string, config []byte, layers ...[]byte) digest.Digest {
	m := specs.Manifest{MediaType: specs.MediaTypeImageManifest, Layers: []specs.Descriptor{}}
	m.SchemaVersion = 2
	m.Config = specs.Descriptor{MediaType: specs.MediaTypeImageConfig, Digest: up.AddBlob(repository, config), Size: int64(len(config))}
	for _, l := range layers {
		m.Layers = append(m.Layers, specs.Descriptor{MediaType: specs.MediaTypeImageLayer, Digest: up.AddBlob(repository, l), Size: int64(len(l))})
	}
	content, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	d := up.AddManifest(repository, specs.MediaTypeImageManifest, content).Digest
	up.Tag(repository, tag, d)
	return d
}

// TestConfigThatLies: its diff IDs are not those of the manifest's layers.
func TestConfigThatLies(t *testing.T) {
	layer := []byte("layer")
	diff := digest.FromBytes(layer)
	for name, config := range map[string]any{
		"more diff IDs than layers": specs.Image{Platform: amd64, RootFS: specs.RootFS{Type: "layers", DiffIDs: []digest.Digest{diff, diff}}},
		"fewer":                     specs.Image{Platform: amd64, RootFS: specs.RootFS{Type: "layers"}},
		"no digest":                 specs.Image{Platform: amd64, RootFS: specs.RootFS{Type: "layers", DiffIDs: []digest.Digest{"sha256:../../x"}}},
		"not a config":              []string{"x"},
	} {
		t.Run(name, func(t *testing.T) {
			up := registrytest.New(t, registrytest.Options{})
			content, err := json.Marshal(config)
			if err != nil {
				t.Fatal(err)
			}
			addImageOf(up, "team/app", "v1", content, layer)
			var told passed
			c := newCache(t, up, func(c *cache) { forAMD64(c); c.passed = told.tell })
			ref := reference(t, "registry.test/team/app:v1")
			if _, err := c.Pull(context.Background(), ref, nil, nil); err != nil {
				t.Fatal(err) // it is served all the same
			}
			c.noChain(diff)
			_, err = c.RootFS(context.Background(), ref, amd64)
			wantCode(t, err, CodeManifestInvalid)
			if len(told.images) != 0 {
				t.Error("told of an image that has no root filesystem")
			}
		})
	}
}

// TestChainsOfAnOlderState: a registry.db without them gets them, and so does
// one that was made anew.
func TestChainsOfAnOlderState(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, path string){
		"older": func(t *testing.T, path string) {
			db, err := bolt.Open(path, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			err = db.Update(func(tx *bolt.Tx) error {
				return errors.Join(tx.DeleteBucket(bucketChains), tx.DeleteBucket(bucketRootFS), tx.Bucket(bucketMeta).Delete(keyChained))
			})
			if err != nil {
				t.Fatal(err)
			}
		},
		"damaged": func(t *testing.T, path string) {
			if err := os.WriteFile(path, bytes.Repeat([]byte("x"), 1<<15), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			up := registrytest.New(t, registrytest.Options{})
			image := up.AddImage("team/app", "v1", []byte("base"), []byte("top"))
			c := newCache(t, up, forAMD64)
			if _, err := c.Pull(context.Background(), reference(t, "registry.test/team/app:v1"), nil, nil); err != nil {
				t.Fatal(err)
			}
			c.stop()
			spoil(t, filepath.Join(c.root, "registry.db"))
			up.Stop()
			c.start()
			chains := chainsOf(image)
			eventually(t, func() bool { _, err := c.Chain(context.Background(), chains[1]); return err == nil })
			c.chainIs(chains[0], image, 1)
		})
	}
}

// TestChainGoesWithItsImage: an image that was removed or evicted has no row left.
func TestChainGoesWithItsImage(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	one := up.AddImage("team/one", "v1", []byte("base"), []byte("one"))
	two := up.AddImage("team/two", "v1", []byte("base"), []byte("two"))
	c := newCache(t, up, forAMD64)
	for _, ref := range []string{"registry.test/team/one:v1", "registry.test/team/two:v1"} {
		if _, err := c.Pull(context.Background(), reference(t, ref), nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	c.chainIs(chainsOf(one)[1], one, 2)
	c.chainIs(chainsOf(two)[1], two, 2)
	if _, err := c.Remove(context.Background(), reference(t, "registry.test/team/one:v1")); err != nil {
		t.Fatal(err)
	}
	c.noChain(chainsOf(one)[1])
	c.chainIs(chainsOf(two)[0], two, 1)
	c.clock.advance(patience)
	c.free.Store(1e5)
	if _, err := c.Collect(context.Background(), false); err != nil {
		t.Fatal(err)
	}
	c.noChain(chainsOf(two)[1])
	eventually(t, func() bool { return !c.hasRootRow(two.Digest) })
	c.restart()
	eventually(t, func() bool { return !c.hasRootRow(one.Digest) })
}

// TestChainPrefersWhatIsHere: two images share a base, by layers that are
// compressed differently; the one is here, of the other only the manifest.
func TestChainPrefersWhatIsHere(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	base := []byte("base")
	config := func(author string) []byte {
		content, err := json.Marshal(specs.Image{Author: author, Platform: amd64, RootFS: specs.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(base)}}})
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	refs := map[digest.Digest]string{
		addImageOf(up, "team/a", "v1", config("a"), []byte("base, compressed")):     "registry.test/team/a:v1",
		addImageOf(up, "team/b", "v1", config("b"), []byte("base, compressed too")): "registry.test/team/b:v1",
	}
	for whole := range refs {
		c := newCache(t, up, func(c *cache) { forAMD64(c) })
		for d, ref := range refs {
			if d == whole {
				if _, err := c.Pull(context.Background(), reference(t, ref), nil, nil); err != nil {
					t.Fatal(err)
				}
				continue
			}
			m, _ := c.get(ref)
			c.read(reference(t, ref).Repository.String(), m.parsed.config.Digest)
		}
		eventually(t, func() bool {
			for d := range refs {
				if !c.hasRootRow(d) {
					return false
				}
			}
			return true
		})
		image, err := c.Chain(context.Background(), digest.FromBytes(base))
		if err != nil || image.Manifest.Digest != whole {
			t.Errorf("chain gives %s, %v, want %s, which is here", image.Manifest.Digest, err, whole)
		}
	}
}

// TestRootFSWorksWithoutNetwork, once the image is here, pinned or not.
func TestRootFSWorksWithoutNetwork(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBasic})
	amd := up.AddImageFor("team/app", "", amd64, []byte("base"), []byte("top"))
	arm := up.AddImageFor("team/app", "", arm64, []byte("other base"))
	up.AddIndex("team/app", "v1", amd, arm)
	single := up.AddImageFor("team/single", "v1", arm64, []byte("layer"))
	c := newCache(t, up, func(c *cache) {
		forAMD64(c)
		c.options.Access, c.options.Username, c.options.PasswordFile = AccessProven, "alice", filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(c.options.PasswordFile, []byte("open sesame"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	ref := reference(t, "registry.test/team/app:v1")
	look := func() {
		t.Helper()
		image, err := c.RootFS(context.Background(), ref, amd64)
		if err != nil {
			t.Fatal(err)
		}
		if image.Manifest.Digest != amd.Digest || len(image.Layers) != 2 || image.Layers[1].Chain != chainsOf(amd)[1] {
			t.Fatalf("got %+v", image)
		}
		for i, want := range []string{"base", "top"} {
			b, err := c.OpenLayer(context.Background(), image, image.Layers[i])
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(b)
			if b.Close(); err != nil || string(content) != want {
				t.Errorf("layer %d is %q, %v", i, content, err)
			}
		}
	}
	look()
	_, err := c.RootFS(context.Background(), reference(t, "registry.test/team/single:v1"), amd64)
	wantCode(t, err, CodeManifestUnknown)
	if image, err := c.RootFS(context.Background(), reference(t, "registry.test/team/single:v1"), arm64); err != nil || image.Manifest.Digest != single.Digest {
		t.Errorf("got %s, %v", image.Manifest.Digest, err)
	}
	c.settled(amd.Digest, amd.Config.Digest, amd.Layers[0].Digest, amd.Layers[1].Digest)
	up.Stop()
	c.clock.advance(2 * c.options.TagTTL)
	look()
	c.restart()
	look()
}

// TestOpenLayerFollowsAFlight that somebody else began with a right of its own:
// the operator has none.
func TestOpenLayerFollowsAFlight(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBasic})
	layer := registrytest.Bytes(1, 1<<20)
	image := up.AddImage("team/app", "v1", layer)
	c := newCache(t, up, func(c *cache) { forAMD64(c); c.options.Access = AccessProven })
	up.Add(registrytest.Rule{Path: "/blobs/" + layerDigest(image), Lie: registrytest.Stall(1 << 18), Times: 1})
	asAlice := WithCaller(context.Background(), login("alice", "open sesame"))
	ref := reference(t, "registry.test/team/app:v1")
	if _, _, err := c.Manifest(asAlice, ref); err != nil {
		t.Fatal(err)
	}
	config, _, err := c.Blob(asAlice, ref.Repository, image.Config.Digest)
	if err != nil {
		t.Fatal(err)
	}
	config.Close()
	rootfs, err := c.Chain(context.Background(), chainsOf(image)[0])
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.OpenLayer(context.Background(), rootfs, rootfs.Layers[0])
	wantCode(t, err, CodeUnauthorized) // nobody who may has asked for it
	b, _, err := c.Blob(asAlice, ref.Repository, image.Layers[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	same, err := c.OpenLayer(context.Background(), rootfs, rootfs.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	defer same.Close()
	up.Release()
	if content, err := io.ReadAll(same); err != nil || !bytes.Equal(content, layer) {
		t.Errorf("got %d bytes, %v", len(content), err)
	}
}

func layerDigest(image registrytest.Image) string { return image.Layers[0].Digest.String() }

// TestLayersOfAnImageThatACallersOwnRightBrought: who is told of it gets its
// layers by that right, where we have none; who asks for its chain later does not.
func TestLayersOfAnImageThatACallersOwnRightBrought(t *testing.T) {
	p := newParted(t, registrytest.AuthBasic, false)
	p.stop()
	var told passed
	p.passed, p.options.Platforms, p.options.NoReadAhead = told.tell, []string{"linux/amd64"}, true
	p.start()
	ctx := WithCaller(t.Context(), ann)
	if _, _, err := p.Manifest(ctx, reference(t, "registry.test/team/app:v1")); err != nil {
		t.Fatal(err)
	}
	if err := p.ways()["config"](ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return told.of(p.image.Digest) == 1 })
	later, err := p.Chain(t.Context(), chainsOf(p.image)[0])
	if err != nil {
		t.Fatal(err)
	}
	if b, err := p.OpenLayer(t.Context(), later, later.Layers[0]); err == nil {
		b.Close()
		t.Error("nobody's credential brought the layer")
	}
	b, err := p.OpenLayer(t.Context(), told.images[0], told.images[0].Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if content, err := io.ReadAll(b); err != nil || !bytes.Equal(content, p.layer) {
		t.Errorf("%d bytes, %v", len(content), err)
	}
}

package registry

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/registry/registrytest"
)

func (c *cache) pin(ref string, platforms ...string) Pin {
	c.t.Helper()
	p, err := c.Pin(context.Background(), reference(c.t, ref), platforms, nil)
	if err != nil {
		c.t.Fatalf("pin %s: %v", ref, err)
	}
	return p
}

func (c *cache) onlyPin() Pin {
	c.t.Helper()
	pins, err := c.Pins(context.Background(), true)
	if err != nil || len(pins) != 1 {
		c.t.Fatalf("pins: %v, %v", pins, err)
	}
	return pins[0]
}

func TestPinAnswersItsDigestWhateverUpstreamDoes(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	old := up.AddImage("team/app", "v1", []byte("one"), []byte("two"))
	c := newCache(t, up, nil)
	p := c.pin(ref)
	if !p.Complete || p.Have != 4 || p.Want != 4 || p.Digest != old.Digest.String() {
		t.Fatalf("%+v", p)
	}
	moved := up.AddImage("team/app", "v1", []byte("new"))
	if p := c.onlyPin(); p.Drift != DriftMoved || p.UpstreamDigest != moved.Digest.String() {
		t.Errorf("drift %q to %q", p.Drift, p.UpstreamDigest)
	}
	c.clock.advance(time.Hour)
	if a := c.expect(ref, old.Digest, OutcomeHit); a.Detail != DetailPinned {
		t.Errorf("detail %q, want pinned", a.Detail)
	}
	up.Stop()
	c.restart()
	c.expect(ref, old.Digest, OutcomeHit)
	if p := c.onlyPin(); p.Drift != DriftUnknown || p.DriftReason == "" || !p.Complete {
		t.Errorf("%+v", p)
	}
	up.Start(t)
	if err := c.Unpin(context.Background(), reference(t, ref)); err != nil {
		t.Fatal(err)
	}
	c.clock.advance(time.Hour)
	c.expect(ref, moved.Digest, OutcomeMiss)
	if err := c.Unpin(context.Background(), reference(t, ref)); err == nil {
		t.Error("unpinned twice")
	}
}

func TestPinOfWhatIsCachedNeedsNoUpstream(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, nil)
	if _, err := c.Pull(context.Background(), reference(t, ref), nil, nil); err != nil {
		t.Fatal(err)
	}
	up.Stop()
	c.restart()
	if p := c.pin(ref); !p.Complete || p.Digest != image.Digest.String() {
		t.Errorf("%+v", p)
	}
}

func TestPinAtAGivenDigest(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	old := up.AddImage("team/app", "v1", []byte("one"))
	up.AddImage("team/app", "v1", []byte("new"))
	c := newCache(t, up, nil)
	c.pin(ref + "@" + old.Digest.String())
	c.expect(ref, old.Digest, OutcomeHit)
}

func TestPinningAgainMovesNothing(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	old := up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, nil)
	if p := c.pin(ref); p.Already || p.MovedFrom != "" {
		t.Errorf("%+v", p)
	}
	up.AddImage("team/app", "v1", []byte("new"))
	if p := c.pin(ref); !p.Already || p.Digest != old.Digest.String() {
		t.Errorf("%+v", p)
	}
	c.expect(ref, old.Digest, OutcomeHit)
}

func TestPinTakesTheChosenPlatformsAndRewritesNothing(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	amd := up.AddImageFor("team/app", "", specs.Platform{OS: "linux", Architecture: "amd64"}, []byte("amd64"))
	arm := up.AddImageFor("team/app", "", specs.Platform{OS: "linux", Architecture: "arm64"}, []byte("arm64"))
	index, content := up.AddIndex("team/app", "v1", amd, arm)
	c := newCache(t, up, nil)
	p := c.pin(ref, "linux/arm64")
	if !p.Complete || p.Want != 4 || !slices.Equal(p.Platforms, []string{"linux/arm64"}) {
		t.Errorf("%+v", p)
	}
	if _, err := c.store.Stat(amd.Layers[0].Digest); err == nil {
		t.Error("the layer of a platform that was not asked for was fetched")
	}
	if m, _ := c.get(ref); m.Descriptor.Digest != index.Digest || string(m.Content) != string(content) {
		t.Error("the index was rewritten")
	}
	if p := c.pin(ref, PlatformAll); !p.Complete || p.Want != 7 {
		t.Errorf("all: %+v", p)
	}
	_, err := c.Pin(context.Background(), reference(t, ref), []string{"windows/amd64"}, nil)
	wantCode(t, err, CodeManifestUnknown)
	if p := c.onlyPin(); p.Want != 7 {
		t.Error("a pin that was refused changed the one that stood")
	}
}

func TestIncompletePinStandsAndConverges(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("one"), []byte("two"))
	missing := image.Layers[1].Digest.String()
	up.Add(registrytest.Rule{Path: missing, Lie: registrytest.Answer(404, "")})
	c := newCache(t, up, nil)
	p, err := c.Pin(context.Background(), reference(t, ref), nil, nil)
	if err == nil || p.Complete || p.Want != 4 {
		t.Fatalf("%+v, %v", p, err)
	}
	c.expect(ref, image.Digest, OutcomeHit)
	up.Heal()
	c.restart() // the converge loop begins with a look
	eventually(t, func() bool { return c.onlyPin().Complete })
}

func TestPinThatIsBrokenOffLeavesThingsAsTheyWere(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("one"))
	up.Add(registrytest.Rule{Path: image.Layers[0].Digest.String(), Lie: registrytest.Hang()})
	c := newCache(t, up, nil)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := c.Pin(ctx, reference(t, ref), nil, nil)
		done <- err
	}()
	up.Wait(t, "GET", image.Layers[0].Digest.String(), 1)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want it to say that it was cancelled", err)
	}
	if pins, _ := c.Pins(context.Background(), false); len(pins) != 0 {
		t.Errorf("%v", pins)
	}
	if roots, _ := c.store.Roots(); len(roots) != 0 {
		t.Errorf("roots left: %v", roots)
	}
}

func TestRootsAreAlignedWithPinsAtTheStart(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, nil)
	c.pin(ref)
	if err := errors.Join(c.store.DeleteRoot(rootOfPin+ref), c.store.SetRoot(rootOfPin+"registry.test/gone:v1", image.Digest)); err != nil {
		t.Fatal(err)
	}
	c.restart()
	roots, err := c.store.Roots()
	if err != nil || len(roots) != 1 || roots[rootOfPin+ref] != image.Digest {
		t.Errorf("%v, %v", roots, err)
	}
}

func TestRemoveKeepsWhatOthersNeed(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	shared, own := []byte("shared"), []byte("own")
	first := up.AddImage("team/app", "v1", shared, own)
	second := up.AddImage("team/app", "v2", shared)
	c := newCache(t, up, nil)
	c.pin("registry.test/team/app:v2")
	if _, err := c.Pull(context.Background(), reference(t, ref), nil, nil); err != nil {
		t.Fatal(err)
	}
	_, err := c.Remove(context.Background(), reference(t, "registry.test/team/app:v2"))
	wantCode(t, err, CodePinned)
	_, err = c.Remove(context.Background(), Reference{Repository: reference(t, ref).Repository, Digest: second.Digest})
	wantCode(t, err, CodePinned)
	removed, err := c.Remove(context.Background(), reference(t, ref))
	if err != nil || removed.Blobs != 3 {
		t.Fatalf("%+v, %v", removed, err)
	}
	for d, want := range map[digest.Digest]bool{
		digest.FromBytes(shared): true, digest.FromBytes(own): false, first.Digest: false, second.Digest: true,
	} {
		if _, err := c.store.Stat(d); (err == nil) != want {
			t.Errorf("%s is here: %v, want %v", d, err == nil, want)
		}
	}
	up.Stop()
	c.refused(ref, CodeUnavailable)
	_, err = c.Remove(context.Background(), reference(t, ref))
	wantCode(t, err, CodeManifestUnknown)
}

func TestImagesInspectAndDiskUsage(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	shared := []byte("shared")
	v1 := up.AddImage("team/app", "v1", shared, []byte("own"))
	up.AddImage("team/app", "v2", shared)
	byDigest := up.AddImage("team/app", "", []byte("untagged"))
	c := newCache(t, up, nil)
	c.pin(ref)
	c.get("registry.test/team/app:v2")
	c.get("registry.test/team/app@" + byDigest.Digest.String())
	c.settled(byDigest.Digest)
	eventually(t, func() bool {
		images, err := c.Images(context.Background())
		return err == nil && len(images) == 3
	})
	images, _ := c.Images(context.Background())
	if i := images[0]; i.Reference != ref || !i.Complete || !i.Pinned || !slices.Equal(i.Platforms, []string{"linux/amd64"}) {
		t.Errorf("%+v", i)
	}
	if i := images[1]; i.Complete || i.Pinned || i.Have != 2 || i.Want != 3 {
		t.Errorf("v2 has its manifest and the shared layer only: %+v", i)
	}
	inspection, err := c.Inspect(context.Background(), reference(t, ref))
	if err != nil || len(inspection.Manifests) != 1 || len(inspection.Manifests[0].Layers) != 2 || inspection.Config == nil {
		t.Errorf("%+v, %v", inspection, err)
	}
	_, err = c.Inspect(context.Background(), reference(t, "registry.test/team/app:v9"))
	wantCode(t, err, CodeManifestUnknown)
	usage, err := c.DiskUsage(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for _, i := range usage.Images {
		sum += i.Unique
		if i.Unique+i.Shared != i.Size {
			t.Errorf("%+v", i)
		}
	}
	if sum+int64(len(shared)) != usage.Bytes {
		t.Errorf("unique bytes %d and the shared layer's %d should make all %d", sum, len(shared), usage.Bytes)
	}
	_ = v1
}

func TestIndexJSONListsWhatIsTaggedAndPinned(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, nil)
	c.pin(ref)
	c.stop()
	content, err := os.ReadFile(filepath.Join(c.root, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var index specs.Index
	if err := json.Unmarshal(content, &index); err != nil || len(index.Manifests) != 1 {
		t.Fatalf("%s: %v", content, err)
	}
	if m := index.Manifests[0]; m.Digest != image.Digest || m.Annotations[specs.AnnotationRefName] != ref || m.MediaType == "" {
		t.Errorf("%+v", m)
	}
}

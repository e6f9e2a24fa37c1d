package registry

import (
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// TestThroughTellsOfItsOwnRepositoryAlone: a client that pushes asks for each
// blob first, and sends none that it is told is there. One that is here because
// another repository has it is not.
func TestThroughTellsOfItsOwnRepositoryAlone(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	layer := registrytest.Bytes(1, 1000)
	up.AddImage("library/base", "v1", layer)
	c := newCache(t, up, func(c *cache) { c.options.Push = PushThrough })
	if !c.Proving() {
		t.Error("no caller's own credential is asked for, and without one nothing is pushed through")
	}
	base, d := Repository{Registry: "registry.test", Path: "library/base"}, digest.FromBytes(layer)
	if _, err := c.Pull(t.Context(), reference(t, base.String()+":v1"), []string{PlatformAll}, nil); err != nil {
		t.Fatal(err)
	}
	_, _, err := c.BlobInfo(t.Context(), Repository{Registry: base.Registry, Path: "team/app"}, d)
	wantCode(t, err, CodeBlobUnknown)
	up.Stop()
	if size, _, err := c.BlobInfo(t.Context(), base, d); err != nil || size != 1000 {
		t.Errorf("in its own repository, upstream away: %d, %v", size, err)
	}
}

package registry

import (
	"io"
	"testing"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// layerOf reads the last layer of an image as who unpacks it does.
func (p *parted) layerOf(image RootFS, who Caller) error {
	b, err := p.OpenLayer(WithCaller(p.t.Context(), who), image, image.Layers[len(image.Layers)-1])
	if err != nil {
		return err
	}
	defer b.Close()
	_, err = io.Copy(io.Discard, b)
	return err
}

// A root filesystem for somebody with a login of his own: who has no right gets nothing, and where the operator has opened an upstream without
// having a login there, the other's does.
func TestRootFSForWhoShowsALogin(t *testing.T) {
	for _, access := range []string{AccessProven, AccessOpen} {
		t.Run(access, func(t *testing.T) {
			p := newParted(t, registrytest.AuthBearer, false)
			p.options.Access = access
			p.restart()
			ref := reference(t, "registry.test/team/app:v1")
			as := func(who Caller) (RootFS, error) {
				return p.RootFSAs(WithCaller(t.Context(), who), ref, amd64)
			}
			for name, who := range map[string]Caller{"nobody": {}, "bob": login("bob", "bob's own secret"), "a guess": login("ann", "wrong")} {
				if image, err := as(who); err == nil {
					t.Errorf("%s got %s", name, image.Manifest.Digest)
				}
			}
			ann := login("ann", "ann's own secret")
			image, err := as(ann)
			if err != nil || image.Manifest.Digest != p.image.Digest {
				t.Fatalf("%s, %v", image.Manifest.Digest, err)
			}
			if err := p.layerOf(image, Caller{}); err == nil {
				t.Error("nobody got a layer that is not here")
			}
			if err := p.layerOf(image, ann); err != nil {
				t.Error(err)
			}
			p.settled(p.image.Digest, p.image.Config.Digest)
			if access == AccessProven {
				p.noted(ref.Repository, p.image.Digest)
			}
			p.up.Stop()
			if _, err := as(ann); err != nil {
				t.Errorf("while upstream is away: %v", err)
			}
			_, err = as(login("bob", "bob's own secret"))
			if served := err == nil; served != (access == AccessOpen) {
				t.Errorf("what is here is served to bob: %v (%v)", served, err)
			}
		})
	}
}

package registry

import (
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// TestAPinOfWhatCameFromAnotherRepositoryIsServedInItsOwn while upstream is away.
func TestAPinOfWhatCameFromAnotherRepositoryIsServedInItsOwn(t *testing.T) {
	p := newParted(t, registrytest.AuthBasic, true)
	same := p.up.AddImage("team/other", "v2", p.layer) // the very image of team/app
	if same.Digest != p.image.Digest {
		t.Fatal("the images differ")
	}
	p.pin("registry.test/team/app:v1")
	p.pin("registry.test/team/other:v2")
	in := reference(t, "registry.test/team/other:v2").Repository
	for _, d := range []digest.Digest{same.Digest, same.Config.Digest, same.Layers[0].Digest} {
		p.noted(in, d)
		if how := p.how(in, d); how != holdPrivate {
			t.Errorf("%s is noted as %s", d, how)
		}
	}
	if n := p.up.Count("GET", "/team/other/blobs/"+same.Layers[0].Digest.String()); n != 0 {
		t.Errorf("the layer was fetched %d times again", n)
	}
	ctx := WithCaller(t.Context(), bob)
	if _, _, err := p.Manifest(ctx, reference(t, "registry.test/team/other:v2")); err != nil {
		t.Fatal(err)
	}
	p.up.Stop()
	p.clock.advance(time.Hour)
	if err := p.asBob(in, same.Layers[0].Digest); err != nil {
		t.Error(err)
	}
}

// asBob reads a layer as bob.
func (p *parted) asBob(in Repository, d digest.Digest) error {
	return p.read(WithCaller(p.t.Context(), bob), in, d, 0, 10)
}

// TestAPublicImagePinnedWithALoginIsForEverybody while upstream is away.
func TestAPublicImagePinnedWithALoginIsForEverybody(t *testing.T) {
	for name, auth := range map[string]registrytest.Auth{"basic": registrytest.AuthBasic, "bearer": registrytest.AuthBearer} {
		t.Run(name, func(t *testing.T) {
			p := newParted(t, auth, true)
			p.up.Public("team/app")
			p.pin("registry.test/team/app:v1")
			in := reference(t, "registry.test/team/app:v1").Repository
			for _, d := range []digest.Digest{p.image.Digest, p.image.Config.Digest, p.image.Layers[0].Digest} {
				eventually(t, func() bool { return p.how(in, d) == holdPublic })
			}
			p.up.Stop()
			for way, ask := range p.ways() {
				if way == "tags" {
					continue // what is known of tags was fetched with the login
				}
				if err := ask(t.Context()); err != nil {
					t.Errorf("%s: %v", way, err)
				}
			}
		})
	}
}

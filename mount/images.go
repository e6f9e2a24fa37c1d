package mount

import (
	"context"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/mount/forms"
)

// ErrUnknown: no image is known that has a layer with this chain ID.
var ErrUnknown = errors.New("no image that is known here has this chain of layers")

// Images is what this room needs to know of images. Whoever serves them
// fulfils it. All methods may be called in parallel, and obey ctx.
type Images interface {
	// Chain gives the layers of an image, base first, up to the one that makes this
	// chain ID (OCI image spec, "Layer ChainID"). Error: [ErrUnknown].
	Chain(ctx context.Context, chain digest.Digest) ([]forms.Layer, error)
	// RootFS tells what a reference's root filesystem is made of. platform is as
	// in linux/amd64; "" is this machine's.
	RootFS(ctx context.Context, ref, platform string) (Image, error)
}

// Image is an image for one platform.
type Image struct {
	Ref      string        // in full
	Digest   digest.Digest // of its manifest
	Platform string        // as in linux/amd64
	Config   []byte        // the image's config, as the registry has it
	Layers   []forms.Layer // base first
}

// Forms makes unpacked layers and keeps them; *forms.Forms is it, whose
// comments tell what each method promises.
type Forms interface {
	Get(ctx context.Context, image []forms.Layer, user string) (forms.Form, error)
	Has(image []forms.Layer) bool
	Form(id uint64) (forms.Form, bool)
	Hold(id uint64, user string) error
	Release(user string)
	Rehold(users map[string][]uint64) (missing []uint64)
	Lower(ctx context.Context, id uint64) (string, error)
}

var _ Forms = (*forms.Forms)(nil)

// waiting bounds a wait for a form. It ends with ctx too.
func (s *Snapshotter) waiting(ctx context.Context) (context.Context, context.CancelFunc) {
	wait := s.prepareWait
	if wait < 0 { // a Prepare does not come here; what was lost is waited for all the same
		wait = DefaultPrepareWait
	}
	return context.WithTimeoutCause(ctx, wait, errWaited)
}

// errWaited is the cause of a wait that took too long.
var errWaited = errors.New("it is still being fetched and unpacked")

// now is when something was made, without what a file cannot hold of it.
func now() time.Time { return time.Now().UTC().Round(0) }

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/api"
	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/mount"
	"github.com/imagecache/imagecache/mount/forms"
	"github.com/imagecache/imagecache/registry"
)

// rootfs is the part of the daemon that gives root filesystems. The nil one
// does nothing: none was asked for.
type rootfs struct {
	settings    SnapshotterSettings
	store       *layerstore.Store
	forms       *forms.Forms
	registry    *registry.Registry // nil until images join
	local       *localImages
	snapshotter *mount.Snapshotter
	service     *mount.Service
	listener    net.Listener
	verifyAfter time.Duration // 0: never, but for a scrub of all
}

// openForms opens the forms, before the registry: it tells them which images
// pass. Without containerd they are opened where root filesystems for people may
// be that need them.
func (d *daemon) openForms(uid int) error {
	s := d.settings
	if s.Snapshotter.Address == "" && s.Snapshotter.DropLayers != "" && s.Snapshotter.DropLayers != registry.DropNever {
		d.log.Warn("snapshotter.drop_layers drops nothing without snapshotter.address, for nobody starts from unpacked layers then")
	}
	if s.Snapshotter.Address == "" && (uid != 0 || !exists(rootfsFolder(s.Root))) {
		return nil
	}
	return d.openRoom(uid)
}

func (d *daemon) openRoom(uid int) error {
	s := d.settings
	if uid != 0 {
		return &hintedError{errors.New("the daemon does not run as root, and only root may mount file systems"),
			"run it as root (packaging/imagecache-snapshotter.conf does that with systemd), or leave snapshotter.address empty"}
	}
	local, err := newLocalImages()
	if err != nil {
		return err
	}
	r := &rootfs{settings: s.Snapshotter, store: d.store, local: local, verifyAfter: s.VerifyAfter}
	r.forms, err = forms.Open(forms.Options{
		Root: rootfsFolder(s.Root), Kind: s.Snapshotter.Form, Log: d.log,
		Blob: r.openStored, Here: r.isHere,
	})
	if err != nil {
		return explainRootfs(s, err)
	}
	d.rootfs = r
	return nil
}

// rootfsFolder is where unpacked layers are, below the store's root.
func rootfsFolder(root string) string { return filepath.Join(root, "rootfs") }

// passed is told of images as they go through the mirror. nil: nobody wants to be told.
func (r *rootfs) passed() func(registry.RootFS) {
	if r == nil || r.settings.Address == "" || r.settings.Unpack != unpackAhead {
		return nil
	}
	return func(image registry.RootFS) { r.forms.Ahead(r.layers(image)) }
}

// openSnapshotter opens the snapshotter and its socket, once there is a
// registry to ask. What forms take counts from here on: before, nobody knew which are in use.
func (d *daemon) openSnapshotter(ctx context.Context, uid int) error {
	r := d.rootfs
	if r == nil {
		return nil
	}
	s := d.settings
	r.registry = d.registry
	var err error
	r.snapshotter, err = mount.Open(mount.Options{
		Root: rootfsFolder(s.Root), Forms: r.forms, Images: r, Log: d.log,
		PrepareWait: orNever(s.Snapshotter.PrepareWait),
	})
	if err != nil {
		return explainRootfs(s, err)
	}
	d.store.SetDerived(r.forms)
	r.scrubAlways(s)
	if s.Snapshotter.Address == "" {
		return nil
	}
	r.service = mount.NewService(r.snapshotter, d.log)
	r.listener, err = listenSocket(ctx, s.Snapshotter.Address, "--snapshotter", uid)
	return err
}

func explainRootfs(s *Settings, err error) error {
	switch {
	case errors.Is(err, forms.ErrBusy):
		return &hintedError{fmt.Errorf("another imagecache uses %s: %w", rootfsFolder(s.Root), err), "stop that one, or choose another --root"}
	case errors.Is(err, forms.ErrNewer):
		return &hintedError{fmt.Errorf("%s: %w", rootfsFolder(s.Root), err), "run that version, or choose another --root"}
	}
	return fmt.Errorf("opening the unpacked layers at %s: %w", rootfsFolder(s.Root), err)
}

// serve answers containerd until shutdown; nil never ends.
func (r *rootfs) serve(failed chan<- error) {
	if r != nil && r.listener != nil {
		go func() { failed <- r.service.Serve(r.listener) }()
	}
}

// shutdown lets containerd's calls under way end.
func (r *rootfs) shutdown(ctx context.Context) error {
	if r == nil || r.service == nil {
		return nil
	}
	return r.service.Shutdown(ctx)
}

// close ends what runs. Snapshots stay mounted.
func (r *rootfs) close() error {
	if r == nil {
		return nil
	}
	var failures []error
	if r.service != nil {
		cut, cancel := context.WithCancel(context.Background())
		cancel()
		_ = r.service.Shutdown(cut) // whoever was to be waited for has been
	}
	if r.listener != nil {
		if err := r.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			failures = append(failures, err)
		}
	}
	if r.snapshotter != nil {
		failures = append(failures, r.snapshotter.Close())
	}
	return errors.Join(append(failures, r.forms.Close())...)
}

// status is what "imagecache status" and the metrics tell.
func (r *rootfs) status() func() *api.SnapshotterStatus {
	if r == nil || r.settings.Address == "" {
		return nil
	}
	return func() *api.SnapshotterStatus {
		s, f := r.snapshotter.Status(), r.forms.Stats()
		return &api.SnapshotterStatus{
			Address: r.settings.Address, Taken: s.Taken, Reused: s.Reused, Missed: s.Missed, Waiting: s.Waiting,
			Mended: s.Mended, Lost: s.Lost, Forms: f.Forms, FormBytes: f.Bytes, FormsInUse: f.InUse, Making: f.Making,
			Queued: f.Queued, Made: f.Made, Failed: f.Failed, Rotten: f.Rotten, Scrubbed: f.Scrubbed,
		}
	}
}

// Chain is mount's question, which layers make a chain ID.
func (r *rootfs) Chain(ctx context.Context, chain digest.Digest) ([]forms.Layer, error) {
	image, err := r.registry.Chain(ctx, chain)
	if errors.Is(err, registry.ErrNoChain) {
		if layers, known := r.local.chain(chain); known {
			return layers, nil
		}
		return nil, fmt.Errorf("%w: %w", mount.ErrUnknown, err)
	}
	if err != nil {
		return nil, err
	}
	return r.layers(image), nil
}

// RootFS is mount's question, what an image is made of.
func (r *rootfs) RootFS(ctx context.Context, text, platform string) (mount.Image, error) {
	wanted, err := parsePlatform(platform)
	if err != nil {
		return mount.Image{}, err
	}
	if isLocalImage(text) {
		return r.local.image(ctx, text, wanted)
	}
	ref, err := registry.ParseReference(text)
	if err != nil {
		return mount.Image{}, err
	}
	image, layers, err := r.imageFor(ctx, ref, wanted)
	if err != nil {
		return mount.Image{}, err
	}
	config, err := r.readConfig(ctx, image.Config)
	if err != nil {
		return mount.Image{}, fmt.Errorf("config of %s: %w", ref, err)
	}
	if image.Platform.OS != "" {
		wanted = image.Platform
	}
	return mount.Image{Ref: ref.String(), Digest: image.Manifest.Digest, Platform: platforms.Format(wanted),
		Config: config, Layers: layers}, nil
}

// imageFor looks an image up for whoever ctx says asks: the operator, or somebody
// with a credential of its own, which its layers are fetched with then.
func (r *rootfs) imageFor(ctx context.Context, ref registry.Reference, platform specs.Platform) (registry.RootFS, []forms.Layer, error) {
	who, bounded := ctx.Value(askerKey{}).(asker)
	if !bounded {
		image, err := r.registry.RootFS(ctx, ref, platform)
		return image, r.layers(image), err
	}
	image, err := r.registry.RootFSAs(registry.WithCaller(ctx, who.Caller), ref, platform)
	layers := r.layers(image)
	for i := range layers {
		open := layers[i].Open
		layers[i].Open = func(ctx context.Context) (io.ReadCloser, error) {
			return open(registry.WithCaller(ctx, who.Caller))
		}
	}
	return image, layers, err
}

// readConfig reads an image's config, which the registry has just read too.
func (r *rootfs) readConfig(ctx context.Context, config specs.Descriptor) ([]byte, error) {
	b, err := r.store.Fetch(ctx, config, nil)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return io.ReadAll(io.LimitReader(b, limitImageConfig))
}

// limitImageConfig is as much as the registry takes for a config.
const limitImageConfig = 4 << 20 // bytes

// layers says where the bytes of an image's layers come from.
func (r *rootfs) layers(image registry.RootFS) []forms.Layer {
	layers := make([]forms.Layer, len(image.Layers))
	for i, l := range image.Layers {
		layers[i] = forms.Layer{DiffID: l.DiffID, Blob: l.Descriptor, Open: func(ctx context.Context) (io.ReadCloser, error) {
			blob, err := r.registry.OpenLayer(ctx, image, l)
			if err != nil {
				return nil, err // and no *layerstore.Blob that is nil
			}
			return blob, nil
		}}
	}
	return layers
}

// openStored opens a blob that is here, or was dropped because its form was: to
// make a form again that nobody asks for just now.
func (r *rootfs) openStored(ctx context.Context, _ digest.Digest, blob specs.Descriptor) (io.ReadCloser, error) {
	b, err := r.registry.OpenNeeded(ctx, blob)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// isHere reports whether the store has a blob, or an image that names it: the
// blob itself may have been dropped because its form is here.
func (r *rootfs) isHere(blob digest.Digest) bool {
	if _, err := r.store.Stat(blob); err == nil {
		return true
	}
	parents, err := r.store.Referrers(blob)
	return len(parents) > 0 || err != nil // what cannot be found out is kept
}

// unpacked knows which layers need not be kept compressed. nil: all are to be, as
// nobody starts from unpacked ones.
func (r *rootfs) unpacked() registry.Unpacked {
	if r == nil || r.settings.Address == "" {
		return nil
	}
	return r.forms
}

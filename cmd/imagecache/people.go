package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	ctdmount "github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/platforms"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/api"
	"github.com/imagecache/imagecache/mount"
	"github.com/imagecache/imagecache/mount/forms"
	"github.com/imagecache/imagecache/registry"
)

// people gives root filesystems to people: what api asks for, joined to mount. A
// daemon that serves no containerd opens the room when somebody first asks: most
// never do, and an ordinary user cannot.
type people struct {
	open func() (*rootfs, error)
	log  *slog.Logger

	mu     sync.Mutex // guards what follows, and is held while the room is opened
	rootfs *rootfs
	closed bool
}

var _ api.RootFilesystems = (*people)(nil)

// room is where root filesystems come from.
func (p *people) room() (*rootfs, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, forms.ErrClosed
	}
	if p.rootfs != nil {
		return p.rootfs, nil
	}
	opened, err := p.open()
	if err != nil {
		p.log.Error("root filesystems cannot be given", "error", err)
		return nil, &api.RootfsError{Fault: api.RootfsUnable, Err: withHint(err)}
	}
	p.rootfs = opened
	return opened, nil
}

// withHint puts what to do into the text, for whoever asks from elsewhere.
func withHint(err error) error {
	var hinted *hintedError
	if errors.As(err, &hinted) && hinted.hint != "" {
		return fmt.Errorf("%w; %s", err, hinted.hint)
	}
	return err
}

// close ends the room. What is mounted stays.
func (p *people) close() error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	return p.rootfs.close()
}

func (p *people) Acquire(ctx context.Context, w api.RootfsWish, progress func(registry.Progress)) (api.Rootfs, error) {
	r, err := p.room()
	if err != nil {
		return api.Rootfs{}, err
	}
	if w.Bounded {
		ctx = context.WithValue(ctx, askerKey{}, asker{w.Caller})
	}
	image, err := r.RootFS(ctx, w.Reference, w.Platform)
	if err != nil {
		return api.Rootfs{}, rootfsError(err)
	}
	stop := r.follow(image, progress)
	got, err := r.snapshotter.Acquire(ctx, mount.Wish{Key: w.Key, Ref: w.Reference, Platform: w.Platform, Writable: w.Writable})
	stop()
	if err != nil {
		return api.Rootfs{}, rootfsError(err)
	}
	told, err := toldRootfs(got)
	if err != nil {
		return api.Rootfs{}, errors.Join(err, r.snapshotter.ReleaseRootfs(w.Key))
	}
	p.log.Info("root filesystem made", "key", w.Key, "image", got.Ref, "digest", got.Digest, "writable", got.Writable)
	return told, nil
}

func (p *people) Acquired(ctx context.Context, key string) (api.Rootfs, error) {
	r, err := p.room()
	if err != nil {
		return api.Rootfs{}, err
	}
	got, err := r.snapshotter.Acquired(ctx, key)
	if err != nil {
		return api.Rootfs{}, rootfsError(err)
	}
	told, err := toldRootfs(got)
	if err == nil && got.Writable {
		told.Written, err = r.snapshotter.RootfsUsage(ctx, key)
	}
	return told, rootfsError(err)
}

func (p *people) List(context.Context) ([]api.Rootfs, error) {
	r, err := p.room()
	if err != nil {
		return nil, err
	}
	list, err := r.snapshotter.ListRootfs()
	if err != nil {
		return nil, err
	}
	told := make([]api.Rootfs, len(list))
	for i, l := range list {
		told[i] = summary(l)
	}
	return told, nil
}

func (p *people) Release(_ context.Context, key string) error {
	r, err := p.room()
	if err != nil {
		return err
	}
	if err := r.snapshotter.ReleaseRootfs(key); err != nil {
		return rootfsError(err)
	}
	p.log.Info("root filesystem released", "key", key)
	return nil
}

// progressEvery is how often a making is looked at: as often as api tells of it.
const progressEvery = 100 * time.Millisecond

// follow tells of the layers of an image while they come, until it is stopped.
func (r *rootfs) follow(image mount.Image, progress func(registry.Progress)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var following sync.WaitGroup
	following.Go(func() {
		ticks := time.NewTicker(progressEvery)
		defer ticks.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticks.C: // what is here already is not worth a word
				progress(r.progress(image))
			}
		}
	})
	return func() { cancel(); following.Wait() }
}

// progress tells how much of an image's layers is unpacked.
func (r *rootfs) progress(image mount.Image) registry.Progress {
	p := registry.Progress{Reference: image.Ref, Phase: registry.PhaseFetch, Digest: image.Digest.String(), BlobsTotal: len(image.Layers)}
	for i, l := range image.Layers {
		p.BytesTotal += l.Blob.Size
		if r.forms.Has(image.Layers[:i+1]) {
			p.BlobsDone++
			p.BytesDone += l.Blob.Size
		} else if making, ok := r.forms.Progress(image.Layers[:i+1]); ok {
			p.BytesDone += min(making.Read, l.Blob.Size)
		}
	}
	return p
}

// rootfsError says in api's words what mount says in its own. What the registry
// says passes as it is.
func rootfsError(err error) error {
	fault := api.RootfsFault("")
	unmade := new(forms.MakeError)
	switch {
	case errors.Is(err, mount.ErrRootfsExists):
		fault = api.RootfsExists
	case errors.Is(err, mount.ErrRootfsBusy):
		fault = api.RootfsBusy
	case errors.Is(err, mount.ErrNoRootfs):
		fault = api.RootfsUnknown
	case errors.Is(err, errNotLocal), errors.Is(err, errPlatform):
		fault = api.RootfsInvalid
	case errors.As(err, &unmade) && unmade.Reason != forms.ReasonBlob && unmade.Reason != forms.ReasonClosed:
		fault = api.RootfsInvalid
	}
	if fault == "" {
		return err
	}
	return &api.RootfsError{Fault: fault, Err: err}
}

// errPlatform: what was given is not the name of a platform.
var errPlatform = errors.New("not a platform, as in linux/amd64")

// summary is what lists tell of a root filesystem.
func summary(r mount.Rootfs) api.Rootfs {
	return api.Rootfs{Key: r.Key, Reference: r.Ref, Digest: r.Digest.String(), Platform: r.Platform, Writable: r.Writable,
		CreatedAt: r.CreatedAt, Bytes: r.Bytes, Upper: r.Upper}
}

// toldRootfs is all there is to tell of one.
func toldRootfs(r mount.Rootfs) (api.Rootfs, error) {
	told := summary(r)
	told.Config = r.Config
	for _, m := range r.Mounts {
		told.Mounts = append(told.Mounts, api.RootfsMount{Type: m.Type, Source: m.Source, Options: m.Options})
	}
	for _, path := range lowersOf(r.Mounts) {
		lower, err := seen(path)
		if err != nil {
			return told, err
		}
		told.Lowers = append(told.Lowers, lower)
	}
	return told, nil
}

// lowersOf are the folders that mounts read from.
func lowersOf(mounts []ctdmount.Mount) (paths []string) {
	for _, m := range mounts {
		if m.Type == "bind" {
			paths = append(paths, m.Source)
		}
		for _, option := range m.Options {
			if lowers, ok := strings.CutPrefix(option, "lowerdir="); ok {
				paths = append(paths, strings.Split(lowers, ":")...)
			}
		}
	}
	return paths
}

// seen tells which folder this process sees at a path.
func seen(path string) (api.RootfsLower, error) {
	info, err := os.Stat(path)
	if err != nil {
		return api.RootfsLower{}, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return api.RootfsLower{}, fmt.Errorf("%s: %w", path, fs.ErrInvalid)
	}
	return api.RootfsLower{Path: path, Device: stat.Dev, Inode: stat.Ino}, nil
}

// asker is somebody who may see less than the operator, and what it has shown.
type asker struct{ registry.Caller }

type askerKey struct{}

// parsePlatform reads a platform; "" is this machine's.
func parsePlatform(text string) (specs.Platform, error) {
	if text == "" {
		return platforms.DefaultSpec(), nil
	}
	p, err := platforms.Parse(text)
	if err != nil {
		return p, fmt.Errorf("%q: %w", text, errPlatform)
	}
	return p, nil
}

// openPeople makes what gives root filesystems to people. It has the room that is
// open already, or opens it when it is asked.
func (d *daemon) openPeople(uid int) *people {
	return &people{log: d.log, rootfs: d.rootfs, open: func() (*rootfs, error) {
		late := &daemon{settings: d.settings, log: d.log, store: d.store, registry: d.registry}
		err := late.openRoom(uid)
		if err == nil {
			// Without containerd there is no socket to listen on, for which ctx would be.
			err = late.openSnapshotter(context.Background(), uid)
		}
		if err != nil {
			return nil, errors.Join(err, late.rootfs.close())
		}
		return late.rootfs, nil
	}}
}

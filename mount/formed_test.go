package mount_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"

	cmount "github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/mount/forms"
)

// formed makes a form of each snapshot that is committed, so that containerd's
// suite judges forms too: the layer is written as a tar, the folder is lost, and
// the snapshotter has it made again.
type formed struct {
	snapshots.Snapshotter
	room *room

	mu      sync.Mutex // guards what follows
	layers  map[string][]forms.Layer
	updated map[string]bool // snapshots that the suite updated
}

func newFormed(s snapshots.Snapshotter, r *room) *formed {
	return &formed{Snapshotter: s, room: r, layers: map[string][]forms.Layer{"": nil}, updated: map[string]bool{}}
}

func (f *formed) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	active, err := f.Stat(ctx, key)
	if err != nil {
		return err
	}
	// By its folder it is found; by its label it is made again.
	folder := f.folderOf(ctx, key)
	layer, err := f.layer(ctx, active.Parent, key)
	if err != nil {
		return err
	}
	f.mu.Lock()
	layers := append(append([]forms.Layer{}, f.layers[active.Parent]...), layer)
	f.layers[name] = layers
	f.mu.Unlock()
	chain := chainIDOf(layers)
	f.room.shelf.set(func() { f.room.shelf.chains[chain] = layers })
	var info snapshots.Info
	for _, opt := range opts {
		if err := opt(&info); err != nil {
			return err
		}
	}
	labels := map[string]string{snapshots.LabelSnapshotRef: chain.String()}
	for k, v := range info.Labels {
		labels[k] = v
	}
	if err := f.Snapshotter.Commit(ctx, name, key, snapshots.WithLabels(labels)); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(f.room.root, "layers", folder)); err != nil {
		return err
	}
	if _, err := f.View(ctx, name+" made", name); err != nil {
		return err
	}
	return f.Remove(ctx, name+" made")
}

// folderOf is the folder that an active snapshot is written to.
func (f *formed) folderOf(ctx context.Context, key string) string {
	mounts, err := f.Mounts(ctx, key)
	if err != nil {
		return ""
	}
	upper := mounts[0].Source
	for _, option := range mounts[0].Options {
		if dir, found := bytes.CutPrefix([]byte(option), []byte("upperdir=")); found {
			upper = string(dir)
		}
	}
	return filepath.Base(filepath.Dir(upper))
}

// layer writes what an active snapshot adds to its parent as a tar.
func (f *formed) layer(ctx context.Context, parent, key string) (layer forms.Layer, err error) {
	below, err := os.MkdirTemp("", "below")
	if err != nil {
		return layer, err
	}
	defer os.RemoveAll(below)
	if parent != "" {
		lower, err := f.View(ctx, key+" below", parent)
		if err != nil {
			return layer, err
		}
		defer func() { err = errors.Join(err, f.Remove(ctx, key+" below")) }()
		if err := cmount.All(lower, below); err != nil {
			return layer, err
		}
		defer func() { err = errors.Join(err, cmount.UnmountAll(below, 0)) }()
	}
	mounts, err := f.Mounts(ctx, key)
	if err != nil {
		return layer, err
	}
	var tar bytes.Buffer
	err = cmount.WithTempMount(ctx, mounts, func(dir string) error { return archive.WriteDiff(ctx, &tar, below, dir) })
	d := digest.FromBytes(tar.Bytes())
	return forms.Layer{DiffID: d, Open: f.room.shelf.opener(tar.Bytes()),
		Blob: specs.Descriptor{MediaType: specs.MediaTypeImageLayer, Digest: d, Size: int64(tar.Len())}}, err
}

func chainIDOf(layers []forms.Layer) digest.Digest {
	diffs := make([]digest.Digest, len(layers))
	for i, l := range layers {
		diffs[i] = l.DiffID
	}
	return identity.ChainID(diffs)
}

// shown is what the suite expects: it knows the labels that it gave and no
// others, and of no change but its own.
func (f *formed) shown(info snapshots.Info) snapshots.Info {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(info.Labels, snapshots.LabelSnapshotRef)
	if !f.updated[info.Name] {
		info.Updated = info.Created
	}
	return info
}

func (f *formed) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	info, err := f.Snapshotter.Stat(ctx, key)
	return f.shown(info), err
}

func (f *formed) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	info, err := f.Snapshotter.Update(ctx, info, fieldpaths...)
	f.mu.Lock()
	f.updated[info.Name] = true
	f.mu.Unlock()
	return f.shown(info), err
}

func (f *formed) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	return f.Snapshotter.Walk(ctx, func(ctx context.Context, info snapshots.Info) error { return fn(ctx, f.shown(info)) }, filters...)
}

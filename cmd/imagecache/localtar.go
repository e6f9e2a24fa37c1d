package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/mount"
	"github.com/imagecache/imagecache/mount/forms"
	"github.com/imagecache/imagecache/mount/layertree"
)

// fileVersion tells one content of a file from another, as far as the file system does: a tar of a gigabyte is hashed once, and not for
// each container.
type fileVersion struct {
	path             string
	device, inode    uint64
	size             int64
	modified, change syscall.Timespec
}

// tarLayer is what a tar is as a layer.
type tarLayer struct {
	diffID digest.Digest
	blob   digest.Digest
}

// tarImage makes an image of a tar, which may be compressed.
func (l *localImages) tarImage(ctx context.Context, path string, platform specs.Platform) (mount.Image, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a fifo would make open wait
	if err != nil {
		return mount.Image{}, err
	}
	defer f.Close()
	version, err := versionOf(f, path)
	if err != nil {
		return mount.Image{}, err
	}
	layer, known := l.tars.Get(version)
	if !known {
		if layer, err = hashTar(ctx, f); err != nil {
			return mount.Image{}, fmt.Errorf("%w: %w", errNotLocal, err)
		}
		// A file that somebody writes to meanwhile has another version now, and is hashed again then.
		l.tars.Add(version, layer)
	}
	config, err := json.Marshal(specs.Image{Platform: platform, RootFS: specs.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.diffID}}})
	if err != nil {
		return mount.Image{}, err
	}
	return mount.Image{Digest: digest.FromBytes(config), Platform: platforms.Format(platform), Config: config, Layers: []forms.Layer{{
		DiffID: layer.diffID,
		Blob:   specs.Descriptor{MediaType: specs.MediaTypeImageLayer, Digest: layer.blob, Size: version.size},
		Open:   opener(path),
	}}}, nil
}

func versionOf(f *os.File, path string) (fileVersion, error) {
	info, err := f.Stat()
	if err != nil {
		return fileVersion{}, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return fileVersion{}, fmt.Errorf("%w: want a tar, or oci:// and a folder", errNotLocal)
	}
	return fileVersion{path, stat.Dev, stat.Ino, stat.Size, stat.Mtim, stat.Ctim}, nil
}

// hashTar hashes what the file has and what comes out of it when it is decompressed.
func hashTar(ctx context.Context, f io.Reader) (tarLayer, error) {
	compressed, plain := digest.Canonical.Digester(), digest.Canonical.Digester()
	r, err := layertree.Decompress(io.TeeReader(untilDone{ctx, f}, compressed.Hash()))
	if err != nil {
		return tarLayer{}, err
	}
	defer r.Close()
	if _, err := io.Copy(plain.Hash(), r); err != nil {
		return tarLayer{}, err
	}
	if err := r.Close(); err != nil { // it reads ahead: only now all is hashed
		return tarLayer{}, err
	}
	return tarLayer{plain.Digest(), compressed.Digest()}, nil
}

// untilDone reads until ctx ends.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u untilDone) Read(p []byte) (int, error) {
	if err := context.Cause(u.ctx); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}

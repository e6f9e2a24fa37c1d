package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/platforms"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/mount"
	"github.com/imagecache/imagecache/mount/forms"
)

// errNotLocal: what is at a path of this machine is no image, or not the one that was asked for.
var errNotLocal = errors.New("not an image on this machine")

const ociScheme = "oci://"

// isLocalImage tells a path from a reference: oci:///folder, oci:///folder:tag and /file are images on this machine.
func isLocalImage(text string) bool {
	return strings.HasPrefix(text, ociScheme) || filepath.IsAbs(text)
}

// localImages are images that lie on this machine, outside of the store: OCI layouts, and tars that are the one layer of an
// image without a config, as the root filesystems that are part of a machine are. They are read in place and not copied.
type localImages struct {
	tars   *lru.Cache[fileVersion, tarLayer]
	chains *lru.Cache[digest.Digest, []forms.Layer] // of all images that were looked at
}

// localsMost bounds what is known of local images, each of which is read again when it is asked for: a machine has a handful.
const localsMost = 1024

func newLocalImages() (*localImages, error) {
	tars, err := lru.New[fileVersion, tarLayer](localsMost)
	if err != nil {
		return nil, err
	}
	chains, err := lru.New[digest.Digest, []forms.Layer](localsMost)
	return &localImages{tars, chains}, err
}

// image reads an image. Error: errNotLocal.
func (l *localImages) image(ctx context.Context, text string, platform specs.Platform) (mount.Image, error) {
	path, isLayout := strings.CutPrefix(text, ociScheme)
	if !filepath.IsAbs(path) {
		return mount.Image{}, fmt.Errorf("%s: %w: want an absolute path, as in oci:///srv/image:v1 or /srv/rootfs.tar", text, errNotLocal)
	}
	var image mount.Image
	var err error
	if isLayout {
		image, err = readLayout(path, platform)
	} else {
		image, err = l.tarImage(ctx, path, platform)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", errNotLocal, err)
	}
	if err != nil {
		return mount.Image{}, fmt.Errorf("%s: %w", text, err)
	}
	image.Ref = text
	l.remember(image.Layers)
	return image, nil
}

// remember makes the chain IDs known, by which a form that was lost is made again.
func (l *localImages) remember(layers []forms.Layer) {
	diffs := make([]digest.Digest, len(layers))
	for i, layer := range layers {
		diffs[i] = layer.DiffID
	}
	for i, chain := range identity.ChainIDs(diffs) {
		l.chains.Add(chain, layers[:i+1:i+1])
	}
}

func (l *localImages) chain(id digest.Digest) ([]forms.Layer, bool) { return l.chains.Get(id) }

// layout is a folder in the form of the OCI image layout.
type layout struct{ folder string }

// readLayout reads the image of a layout that has the tag after the last colon, or its only one. A folder whose name has a colon may be
// meant as well.
func readLayout(path string, platform specs.Platform) (mount.Image, error) {
	folder, tag := path, ""
	if colon := strings.LastIndexByte(path, ':'); colon > strings.LastIndexByte(path, '/') && !exists(path) {
		folder, tag = path[:colon], path[colon+1:]
	}
	l := layout{filepath.Clean(folder)}
	var index specs.Index
	content, err := readLimited(filepath.Join(l.folder, specs.ImageIndexFile), limitImageConfig)
	if err != nil {
		return mount.Image{}, err
	}
	if err := json.Unmarshal(content, &index); err != nil {
		return mount.Image{}, fmt.Errorf("%w: its index.json: %w", errNotLocal, err)
	}
	candidates := tagged(index.Manifests, tag)
	if tag != "" && len(candidates) == 0 {
		return mount.Image{}, fmt.Errorf("%w: it has no image %s", errNotLocal, tag)
	}
	m, d, err := l.manifest(candidates, platform, layoutDepth)
	if err != nil {
		return mount.Image{}, err
	}
	return l.image(m, d)
}

// layoutDepth is how deep indexes may be nested; one level is what there is in practice.
const layoutDepth = 4

// tagged are the manifests with a tag, all without one.
func tagged(all []specs.Descriptor, tag string) (with []specs.Descriptor) {
	for _, m := range all {
		name := m.Annotations[specs.AnnotationRefName]
		if tag == "" || name == tag || strings.HasSuffix(name, ":"+tag) {
			with = append(with, m)
		}
	}
	return with
}

// manifest chooses the first manifest that is for a platform.
func (l layout) manifest(among []specs.Descriptor, platform specs.Platform, depth int) (m specs.Manifest, d digest.Digest, err error) {
	fits := platforms.Only(platform)
	for _, candidate := range among {
		if candidate.Platform != nil && !fits.Match(*candidate.Platform) {
			continue
		}
		content, err := l.blob(candidate.Digest)
		if err != nil {
			return m, "", err
		}
		var either struct {
			specs.Manifest
			Manifests []specs.Descriptor `json:"manifests"`
		}
		if err := json.Unmarshal(content, &either); err != nil {
			return m, "", fmt.Errorf("%w: its manifest %s: %w", errNotLocal, candidate.Digest, err)
		}
		if len(either.Manifests) == 0 {
			return either.Manifest, candidate.Digest, nil
		}
		if depth > 0 {
			if m, d, err = l.manifest(either.Manifests, platform, depth-1); err == nil {
				return m, d, nil
			}
		}
	}
	return m, "", fmt.Errorf("%w: it has no image for %s", errNotLocal, platforms.Format(platform))
}

// blob reads a manifest or a config, which has to hash to its digest.
func (l layout) blob(d digest.Digest) ([]byte, error) {
	path, err := l.path(d)
	if err != nil {
		return nil, err
	}
	content, err := readLimited(path, limitImageConfig)
	if err == nil && d.Algorithm().FromBytes(content) != d {
		err = fmt.Errorf("%w: %s does not hash to its name", errNotLocal, path)
	}
	return content, err
}

// path is where a blob is.
func (l layout) path(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("%w: it names %q, which is no digest: an image whose layers are elsewhere (preloaded+layer) cannot be read", errNotLocal, d)
	}
	return filepath.Join(l.folder, specs.ImageBlobsDir, d.Algorithm().String(), d.Encoded()), nil
}

func (l layout) image(m specs.Manifest, d digest.Digest) (mount.Image, error) {
	config, err := l.blob(m.Config.Digest)
	if err != nil {
		return mount.Image{}, err
	}
	var doc specs.Image
	if err := json.Unmarshal(config, &doc); err != nil {
		return mount.Image{}, fmt.Errorf("%w: its config: %w", errNotLocal, err)
	}
	if len(doc.RootFS.DiffIDs) != len(m.Layers) {
		return mount.Image{}, fmt.Errorf("%w: its manifest has %d layers, its config %d", errNotLocal, len(m.Layers), len(doc.RootFS.DiffIDs))
	}
	image := mount.Image{Digest: d, Platform: platforms.Format(platforms.Normalize(doc.Platform)), Config: config}
	for i, blob := range m.Layers {
		if err := doc.RootFS.DiffIDs[i].Validate(); err != nil {
			return mount.Image{}, fmt.Errorf("%w: its config: %w", errNotLocal, err)
		}
		path, err := l.path(blob.Digest)
		if err != nil {
			return mount.Image{}, err
		}
		if _, err := os.Stat(path); err != nil {
			return mount.Image{}, err
		}
		image.Layers = append(image.Layers, forms.Layer{DiffID: doc.RootFS.DiffIDs[i], Blob: blob, Open: opener(path)})
	}
	return image, nil
}

// opener opens a file. What is in it is checked by whoever unpacks it.
func opener(path string) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, err // and no *os.File that is nil
		}
		return f, nil
	}
}

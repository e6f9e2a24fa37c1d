package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"regexp"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// dockerImage is an image in manifest.json of docker save (moby's image
// specification 1.2, "Combined Image JSON + Filesystem Changeset Format").
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string // paths of tars, the lowest layer first
}

// linksMost bounds how many links lead to a file.
const linksMost = 8

// configName is how docker save calls a config: by its digest.
var configName = regexp.MustCompile(`^[0-9a-f]{64}\.json$`)

// namedByDocker reads manifest.json, and makes the manifests that docker save
// does not have.
func (i *importing) namedByDocker(ctx context.Context) (all []named, err error) {
	var images []dockerImage
	if bytes.HasPrefix(bytes.TrimSpace(i.small[dockerManifestFile]), []byte("{")) {
		return i.namedInDir(ctx)
	}
	if err := json.Unmarshal(i.small[dockerManifestFile], &images); err != nil {
		return nil, badArchive("manifest.json: %v", err)
	}
	for _, image := range images {
		desc, err := i.dockerManifest(ctx, image)
		if err != nil {
			return nil, err
		}
		if i.o.Name.Path != "" || len(image.RepoTags) == 0 {
			all = append(all, named{desc: desc})
			continue
		}
		for _, name := range image.RepoTags {
			all = append(all, named{desc: desc, name: name})
		}
	}
	return all, nil
}

// dockerManifest keeps a manifest for an image. The same image always gets the same.
func (i *importing) dockerManifest(ctx context.Context, image dockerImage) (specs.Descriptor, error) {
	config, err := i.memberAt(image.Config)
	if err != nil {
		return specs.Descriptor{}, err
	}
	diffIDs, err := i.dockerConfig(image.Config, config)
	if err != nil {
		return specs.Descriptor{}, err
	}
	if len(diffIDs) != len(image.Layers) {
		return specs.Descriptor{}, badArchive("%s has %d layers, its config %d", quoted(image.Config), len(image.Layers), len(diffIDs))
	}
	m := specs.Manifest{MediaType: specs.MediaTypeImageManifest, Layers: []specs.Descriptor{},
		Config: specs.Descriptor{MediaType: specs.MediaTypeImageConfig, Digest: config.digest, Size: config.size}}
	m.SchemaVersion = 2
	for n, name := range image.Layers {
		layer, err := i.dockerLayer(ctx, name, diffIDs[n])
		if err != nil {
			return specs.Descriptor{}, err
		}
		m.Layers = append(m.Layers, layer)
	}
	return i.keepMade(ctx, m)
}

// keepMade keeps a manifest that did not come.
func (i *importing) keepMade(ctx context.Context, m specs.Manifest) (specs.Descriptor, error) {
	content, err := json.Marshal(m)
	if err != nil {
		return specs.Descriptor{}, err
	}
	desc := specs.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	return desc, i.keep(ctx, desc, content)
}

// keep keeps a manifest that was no blob of the archive.
func (i *importing) keep(ctx context.Context, desc specs.Descriptor, content []byte) error {
	i.lease.Hold(desc.Digest)
	_, absent := i.r.store.Stat(desc.Digest)
	if err := i.r.store.Put(ctx, desc, content); err != nil {
		return err
	}
	if absent == nil {
		i.known++
		return nil
	}
	i.fresh = append(i.fresh, desc.Digest)
	i.bytes += desc.Size
	return nil
}

// memberAt finds the file at a path, which may be a link.
func (i *importing) memberAt(name string) (member, error) {
	at := path.Clean(name)
	for range linksMost {
		if m, ok := i.members[at]; ok {
			return m, nil
		}
		target, ok := i.links[at]
		if !ok {
			break
		}
		at = target
	}
	return member{}, badArchive("manifest.json names %s, which is not in it", quoted(name))
}

// dockerConfig reads a config for the diff IDs of the layers.
func (i *importing) dockerConfig(name string, m member) ([]digest.Digest, error) {
	if base := path.Base(name); configName.MatchString(base) && base != m.digest.Encoded()+".json" {
		return nil, badArchive("%s has the digest %s", quoted(name), m.digest)
	}
	content, err := i.r.store.ReadAll(m.digest, maxManifest)
	if err != nil {
		return nil, err
	}
	var config specs.Image
	if err := json.Unmarshal(content, &config); err != nil {
		return nil, badArchive("the config %s: %v", quoted(name), err)
	}
	return config.RootFS.DiffIDs, nil
}

// dockerLayer finds a layer and proves that it is the one that the config
// means: by its digest as it is, or once it is unzipped.
func (i *importing) dockerLayer(ctx context.Context, name string, diffID digest.Digest) (specs.Descriptor, error) {
	m, err := i.memberAt(name)
	if err != nil {
		return specs.Descriptor{}, err
	}
	desc := specs.Descriptor{MediaType: specs.MediaTypeImageLayer, Digest: m.digest, Size: m.size}
	if m.digest == diffID {
		return desc, nil
	}
	plain, err := i.unzippedDigest(ctx, m)
	if err != nil {
		return specs.Descriptor{}, fmt.Errorf("the layer %s: %w", quoted(name), err)
	}
	if plain.digest != diffID {
		return specs.Descriptor{}, badArchive("the layer %s is not the one that its config means: want the diff ID %s", quoted(name), quoted(diffID.String()))
	}
	desc.MediaType = specs.MediaTypeImageLayerGzip
	if plain.how == "zstd" {
		desc.MediaType = specs.MediaTypeImageLayerZstd
	}
	return desc, nil
}

// unzippedLayer is a layer as it is without its compression.
type unzippedLayer struct {
	digest digest.Digest
	how    string // it is compressed: "gzip" or "zstd"
}

// unzippedDigest is that of what a layer holds, and how it is compressed. Each is unzipped
// once, however many images have it: a few bytes may be terabytes.
func (i *importing) unzippedDigest(ctx context.Context, m member) (unzippedLayer, error) {
	if known, ok := i.unzipped[m.digest]; ok {
		return known, nil
	}
	b, err := i.r.store.Fetch(ctx, specs.Descriptor{Digest: m.digest}, nil)
	if err != nil {
		return unzippedLayer{}, err
	}
	defer b.Close()
	plain, how, err := unzip(b)
	if err != nil {
		return unzippedLayer{}, err
	}
	defer plain.Close()
	h := digest.SHA256.Hash()
	if _, err := io.CopyBuffer(h, whileWanted{ctx, plain}, make([]byte, importBuffer)); err != nil {
		return unzippedLayer{}, err
	}
	i.unzipped[m.digest] = unzippedLayer{digest.NewDigest(digest.SHA256, h), how}
	return i.unzipped[m.digest], nil
}

// whileWanted reads until its context ends.
type whileWanted struct {
	ctx context.Context
	io.Reader
}

func (w whileWanted) Read(p []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	return w.Reader.Read(p)
}

//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/compression"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
)

// made is the time of all files in images made here, so that the same files make the same digest.
var made = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// file is one file of a layer: a symbolic link when link is not empty.
type file struct {
	path string
	mode int64
	body []byte
	link string
}

// tarOf gives the files as an uncompressed layer.
func tarOf(t *testing.T, files []file) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		header := &tar.Header{Name: f.path, Mode: f.mode, Size: int64(len(f.body)), ModTime: made, Typeflag: tar.TypeReg}
		if f.link != "" {
			header.Typeflag, header.Linkname = tar.TypeSymlink, f.link
		}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// layer gives the files as a compressed layer.
func layer(t *testing.T, media types.MediaType, files ...file) v1.Layer {
	t.Helper()
	content := tarOf(t, files)
	how := compression.GZip
	if media == types.OCILayerZStd {
		how = compression.ZStd
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		tarball.WithMediaType(media), tarball.WithCompression(how))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// busyboxFiles are Debian's static busybox with the applets that the tests call.
func busyboxFiles(t *testing.T) []file {
	t.Helper()
	binary, err := os.ReadFile(debian("busybox"))
	if err != nil {
		t.Fatal(err)
	}
	files := []file{
		{path: "bin/busybox", mode: 0o755, body: binary},
		{path: "etc/passwd", mode: 0o644, body: []byte("root:x:0:0:root:/root:/bin/sh\n")},
	}
	for _, applet := range []string{"sh", "cat", "ls", "wc"} {
		files = append(files, file{path: "bin/" + applet, mode: 0o777, link: "busybox"})
	}
	return files
}

// greeting is a file by which the output of a container tells from which image it came.
func greeting(text string) file {
	return file{path: "greeting", mode: 0o644, body: []byte(text + "\n")}
}

// ociImage puts layers together to an OCI image for a platform.
func ociImage(t *testing.T, architecture string, layers ...v1.Layer) v1.Image {
	t.Helper()
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	return assemble(t, base, architecture, layers)
}

// dockerImage puts layers together to an image of Docker's schema 2.
func dockerImage(t *testing.T, layers ...v1.Layer) v1.Image {
	t.Helper()
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.DockerManifestSchema2), types.DockerConfigJSON)
	return assemble(t, base, "amd64", layers)
}

func assemble(t *testing.T, base v1.Image, architecture string, layers []v1.Layer) v1.Image {
	t.Helper()
	image, err := mutate.AppendLayers(base, layers...)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", architecture
	config.Created = v1.Time{Time: made}
	config.Config.Cmd = []string{"/bin/cat", "/greeting"}
	image, err = mutate.ConfigFile(image, config)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// busyboxImage is a small image of Docker's schema 2 that can run.
func busyboxImage(t *testing.T, text string) v1.Image {
	t.Helper()
	return dockerImage(t, layer(t, types.DockerLayer, busyboxFiles(t)...), layer(t, types.DockerLayer, greeting(text)))
}

// pauseImage is what holds a pod together: it sleeps.
func pauseImage(t *testing.T) v1.Image {
	t.Helper()
	image := busyboxImage(t, "pause")
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Config.Cmd = []string{"/bin/busybox", "sleep", "100000"}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	return image
}

// debianImage is an OCI image of a real Debian tree.
func debianImage(t *testing.T, text string) v1.Image {
	t.Helper()
	tree, err := tarball.LayerFromFile(debianTree(), tarball.WithMediaType(types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	return ociImage(t, "amd64", tree, layer(t, types.OCILayer, greeting(text)))
}

// zstdImage is an image whose layers are compressed with zstd.
func zstdImage(t *testing.T, text string) v1.Image {
	t.Helper()
	return ociImage(t, "amd64", layer(t, types.OCILayerZStd, busyboxFiles(t)...), layer(t, types.OCILayerZStd, greeting(text)))
}

// sixtyLayers is an image of sixty layers. Each after the first leaves a file in /layers.
func sixtyLayers(t *testing.T, text string) v1.Image {
	t.Helper()
	layers := []v1.Layer{layer(t, types.OCILayer, append(busyboxFiles(t), greeting(text))...)}
	for i := 1; i < 60; i++ {
		body := fmt.Appendf(nil, "layer %d\n", i)
		layers = append(layers, layer(t, types.OCILayer, file{path: fmt.Sprintf("layers/%02d", i), mode: 0o644, body: body}))
	}
	return ociImage(t, "amd64", layers...)
}

// multiPlatform is an OCI index of an image that runs here and one for another architecture that only has to arrive.
func multiPlatform(t *testing.T, text string) v1.ImageIndex {
	t.Helper()
	here := ociImage(t, "amd64", layer(t, types.OCILayer, busyboxFiles(t)...), layer(t, types.OCILayer, greeting(text)))
	there := ociImage(t, "arm64", layer(t, types.OCILayer, greeting(text+" for arm64")))
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	return mutate.AppendManifests(index,
		mutate.IndexAddendum{Add: here, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: there, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}})
}

// randomImage is an image of one layer with size random bytes, beside a config: nothing to run, only to carry. Each seed makes its own.
func randomImage(t *testing.T, size int, seed uint64) v1.Image {
	t.Helper()
	return ociImage(t, "amd64", static.NewLayer(randomBytes(size, seed), types.OCIUncompressedLayer))
}

// randomBytes are size bytes that nothing compresses, the same for the same seed.
func randomBytes(size int, seed uint64) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	content := make([]byte, size)
	_, _ = rand.NewChaCha8(key).Read(content) // never fails
	return content
}

// digestOf is the digest of an image or an index.
func digestOf(t *testing.T, what any) digest.Digest {
	t.Helper()
	digester, ok := what.(interface{ Digest() (v1.Hash, error) })
	if !ok {
		t.Fatalf("%T has no digest", what)
	}
	hash, err := digester.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.Digest(hash.String())
}

// blobsOf gives the digests of an image's config and layers, each once.
func blobsOf(t *testing.T, image v1.Image) []digest.Digest {
	t.Helper()
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	blobs := []digest.Digest{digest.Digest(manifest.Config.Digest.String())}
	seen := map[digest.Digest]bool{blobs[0]: true}
	for _, l := range manifest.Layers {
		hash := digest.Digest(l.Digest.String())
		if !seen[hash] {
			seen[hash] = true
			blobs = append(blobs, hash)
		}
	}
	return blobs
}

// imageFor gives the image of an index for an architecture.
func imageFor(t *testing.T, index v1.ImageIndex, architecture string) v1.Image {
	t.Helper()
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range manifest.Manifests {
		if m.Platform != nil && m.Platform.Architecture == architecture {
			image, err := index.Image(m.Digest)
			if err != nil {
				t.Fatal(err)
			}
			return image
		}
	}
	t.Fatalf("the index has no image for %s", architecture)
	return nil
}

package forms_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/mount/forms"
)

// A layer is unpacked when it is first asked for, and lent to whoever holds it.
func Example() {
	root, err := os.MkdirTemp("", "forms")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(root)
	f, err := forms.Open(forms.Options{Root: root, Kind: forms.KindDirectory})
	if err != nil {
		panic(err)
	}
	defer f.Close()
	f.Rehold(nil) // nobody used a form before

	ctx, image := context.Background(), []forms.Layer{hello()}
	form, err := f.Get(ctx, image, "my container")
	if err != nil {
		panic(err)
	}
	lower, err := f.Lower(ctx, form.ID)
	if err != nil {
		panic(err)
	}
	content, err := os.ReadFile(filepath.Join(lower, "hello"))
	fmt.Println(string(content), err, f.Has(image))
	f.Release("my container")
	// Output: good morning <nil> true
}

// hello is a layer of one file. Its blob is no flight of a store but lies in memory.
func hello() forms.Layer {
	var blob bytes.Buffer
	w := tar.NewWriter(&blob)
	_ = w.WriteHeader(&tar.Header{Name: "hello", Typeflag: tar.TypeReg, Mode: 0o644, Size: 12})
	_, _ = io.WriteString(w, "good morning")
	_ = w.Close()
	d := digest.FromBytes(blob.Bytes())
	return forms.Layer{
		DiffID: d, Blob: specs.Descriptor{MediaType: specs.MediaTypeImageLayer, Digest: d, Size: int64(blob.Len())},
		Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(&blob), nil },
	}
}

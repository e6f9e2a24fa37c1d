package layerstore_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
)

// upstream is a source that has one blob.
type upstream []byte

func (u upstream) Open(_ context.Context, offset, end int64) (*layerstore.Body, error) {
	fmt.Println("upstream is asked")
	size := int64(len(u))
	if end < 0 {
		end = size
	}
	return &layerstore.Body{ReadCloser: io.NopCloser(bytes.NewReader(u[offset:end])), Offset: offset, Size: size}, nil
}

// A blob is fetched from its source the first time, and read from the store
// from then on.
func Example() {
	root, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(root)
	store, err := layerstore.Open(layerstore.Options{Root: root})
	if err != nil {
		panic(err)
	}
	defer store.Close()

	content := upstream("a layer")
	want := specs.Descriptor{Digest: digest.FromBytes(content), Size: int64(len(content))}
	for range 2 {
		if err := store.Ensure(context.Background(), want, content, nil); err != nil {
			panic(err)
		}
		blob, err := store.Fetch(context.Background(), want, content)
		if err != nil {
			panic(err)
		}
		read, err := io.ReadAll(blob)
		if err != nil {
			panic(err)
		}
		blob.Close()
		fmt.Printf("%s: %s\n", blob.Outcome(), read)
	}
	// Output:
	// upstream is asked
	// hit: a layer
	// hit: a layer
}

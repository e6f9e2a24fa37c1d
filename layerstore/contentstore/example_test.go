package contentstore_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/contentstore"
)

func Example() {
	root, err := os.MkdirTemp("", "contentstore")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(root)
	blobs, err := layerstore.Open(layerstore.Options{Root: root})
	if err != nil {
		log.Fatal(err)
	}
	defer blobs.Close()
	store, err := contentstore.New(blobs, contentstore.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	ctx := context.Background()
	desc := specs.Descriptor{Digest: digest.FromString("a layer"), Size: 7}
	err = content.WriteBlob(ctx, store, "layer-1", strings.NewReader("a layer"), desc,
		content.WithLabels(map[string]string{"from": "here"}))
	if err != nil {
		log.Fatal(err)
	}
	info, err := store.Info(ctx, desc.Digest)
	if err != nil {
		log.Fatal(err)
	}
	b, err := content.ReadBlob(ctx, store, desc)
	fmt.Printf("%s, from %s (%v)\n", b, info.Labels["from"], err)
	// Output: a layer, from here (<nil>)
}

package forms

import (
	"context"
	_ "crypto/sha256" // go-digest knows only the algorithms that are linked in
	_ "crypto/sha512"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Layer is one layer of an image: what it is, and where its bytes come from.
type Layer struct {
	// DiffID is the digest of the layer's tar stream.
	DiffID digest.Digest
	// Blob is the layer as it is compressed.
	Blob specs.Descriptor
	// Open gives the compressed bytes, from their beginning, also while they are
	// still arriving. It must give io.EOF only when they are all there and hash to
	// Blob.Digest. ctx ends the reading too. The caller closes the reader.
	Open func(ctx context.Context) (io.ReadCloser, error)
}

// Form is one layer as it lies unpacked on the disk.
type Form struct {
	ID     uint64 // never given twice, and kept when the form has to be made again
	Kind   string // KindDirectory or KindEROFS
	DiffID digest.Digest
	Bytes  int64 // that it takes on the disk, about
	Inodes int64
}

// Kinds of forms.
const (
	KindAuto      = "auto" // EROFS where this machine can mount and nest it, else directories
	KindDirectory = "directory"
	KindEROFS     = "erofs"
)

// key is what a form is found by: its diff ID, or, when it could only be made
// on top of the layers below, its chain ID. The two cannot be mixed up: a chain ID
// is a diff ID only for a layer that has nothing below it.
type key = digest.Digest

// chain is the chain ID of the image's last layer.
func chain(image []Layer) key {
	ids := make([]digest.Digest, len(image))
	for i, l := range image {
		ids[i] = l.DiffID
	}
	return identity.ChainID(ids)
}

// checkImage refuses what no path may be made of.
func checkImage(image []Layer) error {
	if len(image) == 0 {
		return errors.New("an image without layers has no form")
	}
	for i, l := range image {
		if err := l.DiffID.Validate(); err != nil {
			return fmt.Errorf("layer %d: diff ID %q: %w", i, l.DiffID, err)
		}
		if err := l.Blob.Digest.Validate(); err != nil {
			return fmt.Errorf("layer %d: digest %q: %w", i, l.Blob.Digest, err)
		}
	}
	return nil
}

// split gives the parts of a digest as they stand in paths.
func split(d digest.Digest) (algorithm, hex string) {
	algorithm, hex, _ = strings.Cut(string(d), ":")
	return algorithm, hex
}

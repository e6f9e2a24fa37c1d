package layerstore

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	listingHead = `{"schemaVersion":2,"mediaType":"` + specs.MediaTypeImageIndex + `","manifests":[`
	listingTail = `]}`
)

// SetIndex replaces index.json of the image layout by an index of the given
// manifests, durably.
func (s *Store) SetIndex(manifests []specs.Descriptor) error {
	return storageError("write index.json", writeDurablyBy(s.layout.indexFile(), func(w io.Writer) error {
		return encodeListing(w, manifests)
	}))
}

// IndexIs reports whether index.json is what SetIndex would make of the given
// manifests. One that cannot be read is not.
func (s *Store) IndexIs(manifests []specs.Descriptor) bool {
	f, err := os.Open(s.layout.indexFile())
	if err != nil {
		return false
	}
	defer f.Close()
	file := bufio.NewReader(f)
	if encodeListing(&likeness{file: file}, manifests) != nil {
		return false
	}
	_, err = file.ReadByte()
	return err == io.EOF
}

func (l layout) indexFile() string { return filepath.Join(l.root, specs.ImageIndexFile) }

// encodeListing writes one manifest after the other: a home of ten thousand
// images has an index of many megabytes.
func encodeListing(to io.Writer, manifests []specs.Descriptor) error {
	w := bufio.NewWriterSize(to, 64<<10)
	between := listingHead
	for _, m := range manifests {
		content, err := json.Marshal(m)
		if err != nil {
			return err
		}
		w.WriteString(between) // its error comes again with Flush
		w.Write(content)
		between = ","
	}
	if len(manifests) == 0 {
		w.WriteString(listingHead)
	}
	w.WriteString(listingTail)
	return w.Flush()
}

// likeness takes what a file goes on with, and refuses anything else.
type likeness struct {
	file *bufio.Reader
}

var errOther = errors.New("the file has other bytes")

func (l *likeness) Write(p []byte) (int, error) {
	for i, b := range p {
		if have, err := l.file.ReadByte(); err != nil || have != b {
			return i, errOther
		}
	}
	return len(p), nil
}

package forms

import (
	"slices"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// stands reports whether a form can take the place of its compressed layer: it is
// sound and sealed, was read again since, and needs no layers below it, which
// could be those of one image and not of another. f.mu is held.
func (m *form) stands() bool {
	return !m.making && m.row.Bad == "" && !m.row.Sealed.IsZero() && m.row.Digest != "" && !m.row.Chained
}

// Stands reports whether a form can take the place of a compressed layer: one that
// survives a power cut, and needs nothing below it. The layer is told by its diff
// ID and by a blob that it was met as.
func (f *Forms) Stands(diffID, blob digest.Digest) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.keys[diffID]
	return m != nil && m.stands() &&
		slices.ContainsFunc(m.row.Blobs, func(b specs.Descriptor) bool { return b.Digest == blob })
}

// Standing lists the blobs for which a form stands.
func (f *Forms) Standing() (blobs []digest.Digest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for blob, made := range f.blobs {
		for m := range made {
			if m.stands() {
				blobs = append(blobs, blob)
				break
			}
		}
	}
	return blobs
}

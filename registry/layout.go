package registry

import (
	"slices"
	"strings"
	"time"

	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// indexPause gathers the changes of a burst of pulls into one write of index.json.
const indexPause = time.Second

// writeIndex keeps the image layout's index.json up to date until the
// registry closes.
func (r *Registry) writeIndex() {
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-r.listed:
		}
		select {
		case <-r.ctx.Done():
			nudge(r.listed) // Close writes it
			return
		case <-time.After(indexPause):
		}
		if err := r.store.SetIndex(r.listing()); err != nil {
			r.log.Error("index.json not written", "error", err)
		}
	}
}

// writeIndexNow writes what writeIndex had no time for.
func (r *Registry) writeIndexNow() error {
	select {
	case <-r.listed:
		return r.store.SetIndex(r.listing())
	default:
		return nil
	}
}

// listing is what is tagged and pinned, and here.
func (r *Registry) listing() (manifests []specs.Descriptor) {
	for key, d := range r.named() {
		info, err := r.store.Stat(d)
		if err != nil {
			continue
		}
		manifests = append(manifests, specs.Descriptor{
			MediaType: info.MediaType, Digest: d, Size: info.Size,
			// The full reference: a tag alone would not be unique in here.
			Annotations: map[string]string{specs.AnnotationRefName: key},
		})
	}
	slices.SortFunc(manifests, func(a, b specs.Descriptor) int {
		return strings.Compare(a.Annotations[specs.AnnotationRefName], b.Annotations[specs.AnnotationRefName])
	})
	return manifests
}

package registry

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
)

const (
	// indexPause gathers the changes of a burst of pulls into one write of index.json.
	indexPause = time.Second
	// indexShare is how many times as long as a write took the next one waits: it
	// writes all that is tagged and pushed, and would take a third of a processor
	// where that is much and something is pushed all the time.
	indexShare = 20
)

// writeIndex keeps the image layout's index.json up to date until the
// registry closes.
func (r *Registry) writeIndex() {
	r.checkIndex()
	pause := indexPause
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
		case <-time.After(pause):
		}
		begun := time.Now()
		if err := r.list(); err != nil {
			r.log.Error("index.json not written", "error", err)
		}
		pause = pauseAfter(time.Since(begun))
	}
}

// pauseAfter is how long changes are gathered when the last write took so long.
func pauseAfter(took time.Duration) time.Duration { return max(indexPause, indexShare*took) }

// writeIndexNow writes what writeIndex had no time for.
func (r *Registry) writeIndexNow() error {
	select {
	case <-r.listed:
		return r.list()
	default:
		return nil
	}
}

// list writes index.json, durably. A pin is not acknowledged before: it is to
// survive the loss of both databases.
func (r *Registry) list() error {
	r.listing.Lock()
	defer r.listing.Unlock()
	return r.store.SetIndex(r.entries())
}

// checkIndex has index.json written when it does not tell what the rows do:
// the last process ended before it was, or it is damaged.
func (r *Registry) checkIndex() {
	if !r.store.IndexIs(r.entries()) {
		nudge(r.listed)
	}
}

// names is what a reference means: by its tag, by its pin, or both.
type names struct {
	tag *tagRow
	pin *pinRow
}

func (r *Registry) rows() map[string]names {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make(map[string]names, len(r.tags)+len(r.pins))
	for key, t := range r.tags {
		row := t.row
		all[key] = names{tag: &row}
	}
	for key, row := range r.pins {
		all[key] = names{tag: all[key].tag, pin: &row}
	}
	return all
}

// entries is what index.json lists: what is pinned, and what is tagged and here.
func (r *Registry) entries() []specs.Descriptor {
	manifests := []specs.Descriptor{}
	for key, n := range r.rows() {
		if d, ok := r.entry(key, n); ok {
			manifests = append(manifests, d)
		}
	}
	manifests = append(manifests, r.homeEntries()...)
	slices.SortFunc(manifests, func(a, b specs.Descriptor) int {
		return strings.Compare(a.Annotations[specs.AnnotationRefName], b.Annotations[specs.AnnotationRefName])
	})
	return manifests
}

// entry is the descriptor of what a reference means; a pin wins.
func (r *Registry) entry(key string, n names) (d specs.Descriptor, ok bool) {
	// The full reference: a tag alone would not be unique in here.
	notes := map[string]string{specs.AnnotationRefName: key}
	if n.tag != nil {
		notes[tagAnnotation] = encodeRow(n.tag)
		d.Digest = n.tag.Digest
	}
	if n.pin != nil {
		notes[pinAnnotation] = encodeRow(n.pin)
		notes[layerstore.RootAnnotation] = rootOfPin + key
		d.Digest, d.MediaType, d.Size = n.pin.Digest, n.pin.MediaType, n.pin.Size
	}
	d.Annotations = notes
	info, err := r.store.Stat(d.Digest)
	if err == nil {
		d.MediaType, d.Size = info.MediaType, info.Size
	}
	return d, err == nil || n.pin != nil
}

func encodeRow(row any) string {
	content, _ := json.Marshal(row) // strings, numbers and times
	return string(content)
}

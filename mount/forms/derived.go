package forms

import (
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/layerstore"
)

var _ layerstore.Derived = (*Forms)(nil)

// Bytes is the disk that all forms take.
func (f *Forms) Bytes() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	var sum int64
	for _, m := range f.forms {
		sum += m.row.Bytes
	}
	return sum
}

// Freeable tells what would go if the given blobs went: see [layerstore.Derived].
func (f *Forms) Freeable(blobs map[digest.Digest]bool) int64 {
	idle := f.idleNow()
	f.mu.Lock()
	defer f.mu.Unlock()
	var sum int64
	seen := map[*form]bool{}
	for m := range idle.forms {
		if seen[m] = true; f.droppable(m) {
			sum += m.row.Bytes
		}
	}
	for d := range blobs {
		for m := range f.blobs[d] {
			if seen[m] || !f.droppable(m) || !goesWith(m, blobs, idle.away) {
				continue
			}
			seen[m] = true
			sum += m.row.Bytes
		}
	}
	return sum
}

// goesWith reports whether a form belongs to none but blobs that go, or are not here.
func goesWith(m *form, blobs, away map[digest.Digest]bool) bool {
	for _, b := range m.row.Blobs {
		if !blobs[b.Digest] && !away[b.Digest] {
			return false
		}
	}
	return true
}

// Drop removes the forms made of blobs that went: see [layerstore.Derived]. What
// has come back meanwhile keeps its forms.
func (f *Forms) Drop(blobs []digest.Digest) int64 {
	went := map[digest.Digest]bool{}
	for _, d := range blobs {
		went[d] = f.o.Here == nil || !f.o.Here(d)
	}
	idle := f.idleAnew()
	var list []*form
	f.mu.Lock()
	for _, d := range blobs {
		for m := range f.blobs[d] {
			if goesWith(m, went, idle.away) && !slices.Contains(list, m) {
				list = append(list, m)
			}
		}
	}
	f.mu.Unlock()
	return f.dropNow(list)
}

// Idle removes forms that belong to no blob that is here: see [layerstore.Derived].
func (f *Forms) Idle(want int64) (freed int64) {
	idle := f.idleAnew()
	var list []*form
	f.mu.Lock()
	for m := range idle.forms {
		if f.droppable(m) {
			list = append(list, m)
		}
	}
	slices.SortFunc(list, func(a, b *form) int { return a.row.Used.Compare(b.row.Used) })
	f.mu.Unlock()
	for _, m := range list {
		if freed >= want {
			break
		}
		freed += f.dropNow([]*form{m})
	}
	return freed
}

// dropNow drops forms and deletes them, with the caller's priority: he waits for the space.
func (f *Forms) dropNow(list []*form) int64 {
	doomed, freed := f.drop(list)
	for i, path := range doomed {
		if err := removeTree(f.ctx, path); err != nil {
			f.log.Warn("what is left of a form not deleted", "path", path, "error", err)
			f.doom(doomed[i:]...)
			break
		}
	}
	return freed
}

// idleFor is how long it counts which blobs are not here: a plan asks some hundred
// times within it.
const idleFor = time.Second

// idleForms are the forms that belong to no blob that is here.
type idleForms struct {
	until time.Time
	forms map[*form]bool
	away  map[digest.Digest]bool
	// changes counts what makes an answer void that was begun before.
	changes int
}

func (i *idleForms) forget() {
	i.until = time.Time{}
	i.changes++
}

// idleAnew is idleNow for what is not undone.
func (f *Forms) idleAnew() idleForms {
	f.mu.Lock()
	f.idle.forget()
	f.mu.Unlock()
	return f.idleNow()
}

// idleNow asks for each blob of each form whether it is here, unless that was
// just done. Options.Here is called without a lock.
func (f *Forms) idleNow() idleForms {
	f.mu.Lock()
	if found := f.idle; f.o.Now().Before(found.until) {
		f.mu.Unlock()
		return found
	}
	changes := f.idle.changes
	all := make(map[*form][]digest.Digest, len(f.forms))
	for _, m := range f.forms {
		for _, b := range m.row.Blobs {
			all[m] = append(all[m], b.Digest)
		}
	}
	f.mu.Unlock()
	found := f.findIdle(all)
	f.mu.Lock()
	defer f.mu.Unlock()
	found.changes = f.idle.changes
	if changes == f.idle.changes {
		found.until = f.o.Now().Add(idleFor)
		f.idle = found
	}
	return found
}

func (f *Forms) findIdle(all map[*form][]digest.Digest) idleForms {
	here := map[digest.Digest]bool{}
	found := idleForms{forms: map[*form]bool{}, away: map[digest.Digest]bool{}}
	for m, blobs := range all {
		kept := false
		for _, d := range blobs {
			if _, asked := here[d]; !asked {
				here[d] = f.o.Here == nil || f.o.Here(d)
			}
			if kept = kept || here[d]; !here[d] {
				found.away[d] = true
			}
		}
		if !kept {
			found.forms[m] = true
		}
	}
	return found
}

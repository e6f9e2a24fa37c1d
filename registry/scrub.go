package registry

import (
	"cmp"
	"context"
	"slices"

	"github.com/imagecache/imagecache/layerstore"
)

// Phases of the [Progress] of a scrub.
const (
	PhaseScrub  = "scrub"
	PhaseRepair = "repair"
)

// Scrubbed is what a scrub found, and what became of it. Sizes are in bytes.
type Scrubbed struct {
	Blobs      int          `json:"blobs"`      // read
	Bytes      int64        `json:"bytes"`      // read
	Rotten     int          `json:"rotten"`     // taken away
	Repaired   int          `json:"repaired"`   // fetched again, that of earlier finds included
	Unrepaired []Unrepaired `json:"unrepaired"` // what lacks now, likewise
}

// Unrepaired is a blob that was lost to rot and could not be fetched again.
type Unrepaired struct {
	Digest     string   `json:"digest"`
	Size       int64    `json:"size"`
	Damage     string   `json:"damage"`     // what was wrong with it
	Reason     string   `json:"reason"`     // why it could not be had
	References []string `json:"references"` // the images that need it
}

// Scrub proves the stored blobs again: all, or those that were not proven for
// long. What is rotten is taken away and fetched again from where it is known
// to be. progress, which may be nil, is called by one goroutine at a time. What
// was done until an error is returned with it. Errors: the cause of ctx, those
// of the store.
func (r *Registry) Scrub(ctx context.Context, all bool, progress func(Progress)) (Scrubbed, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	found, err := r.store.Scrub(ctx, layerstore.ScrubOptions{All: all, Progress: func(p layerstore.ScrubProgress) {
		progress(Progress{
			Phase: PhaseScrub, Digest: p.Digest.String(), BlobsDone: p.BlobsDone, BlobsTotal: p.BlobsTotal,
			BytesDone: p.BytesDone, BytesTotal: p.BytesTotal,
		})
	}})
	done := Scrubbed{Blobs: found.Blobs, Bytes: found.Bytes, Rotten: len(found.Rotten), Unrepaired: []Unrepaired{}}
	if err != nil {
		return done, err
	}
	broken := found.Rotten
	if lost := r.store.Lost(); len(lost) > 0 {
		progress(Progress{Phase: PhaseRepair, BlobsTotal: len(lost)})
		r.repair(ctx, lost)
		for _, l := range lost {
			broken = append(broken, l.Digest)
		}
	}
	slices.Sort(broken)
	for _, d := range slices.Compact(broken) {
		if _, err := r.store.Stat(d); err == nil {
			done.Repaired++
		}
	}
	done.Unrepaired, err = r.unrepaired()
	return done, cmp.Or(err, context.Cause(ctx))
}

// unrepaired tells of what is lost.
func (r *Registry) unrepaired() ([]Unrepaired, error) {
	lost := slices.DeleteFunc(r.store.Lost(), func(l layerstore.Loss) bool {
		_, gone := r.store.Stat(l.Digest)
		return gone == nil // back a moment ago
	})
	known := r.repairs.known(lost)
	list := make([]Unrepaired, 0, len(lost))
	for _, l := range lost {
		u := Unrepaired{Digest: l.Digest.String(), Size: l.Size, Damage: l.Why, References: []string{}}
		if failed, tried := known[l.Digest]; tried {
			u.Reason = failed.why.Error()
		}
		list = append(list, u)
	}
	if len(lost) == 0 {
		return list, nil
	}
	for name, top := range r.named() {
		needs, err := r.store.Closure(top)
		if err != nil {
			return list, err
		}
		for i, l := range lost {
			if needs[l.Digest] {
				list[i].References = append(list[i].References, name)
			}
		}
	}
	for _, u := range list {
		slices.Sort(u.References)
	}
	return list, nil
}

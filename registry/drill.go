package registry

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// drillRecent is how far back the gauge looks for what was used: what ran
	// within a week is likely to be started again.
	drillRecent = 7 * 24 * time.Hour
	// drillEvery bounds how often the gauge is computed: it looks at every blob
	// of every pin.
	drillEvery = time.Minute
)

// DrillOptions choose what a drill is about.
type DrillOptions struct {
	// References to look at, pinned or not. None: all that are pinned, and
	// those that were used within Recent.
	References []Reference
	Recent     time.Duration // 0: pinned ones only
	// ForReal reads and hashes every blob, rather than looking whether it is
	// there. What is rotten is taken away, and repaired afterwards. Times of use
	// stay.
	ForReal bool
}

// Drilled is what a drill found.
type Drilled struct {
	References []DrilledReference `json:"references"`
	Failing    int                `json:"failing"`
	Expiring   int                `json:"expiring"` // could start now, and not for long or not again
	ForReal    bool               `json:"for_real"`
	Blobs      int                `json:"blobs"` // that were looked at, each once
	Bytes      int64              `json:"bytes"` // that were read
}

// DrilledReference is one reference, and why it could not start.
type DrilledReference struct {
	Reference string    `json:"reference"`
	Digest    string    `json:"digest,omitempty"`
	Platforms []string  `json:"platforms"`
	Pinned    bool      `json:"pinned"`
	UsedAt    time.Time `json:"used_at,omitzero"`
	OK        bool      `json:"ok"`
	Lacks     []Lack    `json:"lacks"`
	// Expires is what is well now and will not be for long: a right that ends
	// soon, a credential of ours that upstream refuses.
	Expires []Lack `json:"expires,omitempty"`
	// Dropped are layers that are here unpacked only: the snapshotter starts from
	// them, and nobody who wants them compressed does.
	Dropped []Lack `json:"dropped,omitempty"`
}

// Drill tells which references could not start if every upstream went away
// now, from what is here alone: upstream is not asked. A reference that is not
// pinned is looked at for the platforms of which anything is here, else for
// those that would be fetched. The error is ctx's cause.
func (r *Registry) Drill(ctx context.Context, o DrillOptions) (Drilled, error) {
	exercise := &drill{r: r, reasons: map[digest.Digest]string{}, forReal: o.ForReal}
	drilled := Drilled{References: []DrilledReference{}, ForReal: o.ForReal}
	for _, ref := range r.toDrill(o) {
		if err := context.Cause(ctx); err != nil {
			return Drilled{}, err
		}
		one := exercise.of(ctx, ref)
		if !one.OK {
			drilled.Failing++
		}
		if one.OK && len(one.Expires) > 0 {
			drilled.Expiring++
		}
		drilled.References = append(drilled.References, one)
	}
	drilled.Blobs, drilled.Bytes = len(exercise.reasons), exercise.read
	return drilled, context.Cause(ctx)
}

// toDrill are the references that a drill is about, in order.
func (r *Registry) toDrill(o DrillOptions) []Reference {
	if len(o.References) > 0 {
		return o.References
	}
	chosen := map[string]Reference{}
	for key, d := range r.named() {
		ref, err := ParseReference(key)
		if err != nil {
			continue
		}
		if _, pinned := r.pinned(ref); pinned || r.usedWithin(d, o.Recent) {
			chosen[key] = ref
		}
	}
	return slices.SortedFunc(maps.Values(chosen), func(a, b Reference) int { return strings.Compare(a.String(), b.String()) })
}

func (r *Registry) usedWithin(d digest.Digest, span time.Duration) bool {
	info, err := r.store.Stat(d)
	return err == nil && !info.Used.IsZero() && r.now().Sub(info.Used) < span
}

// drill looks at each blob once, however many images need it.
type drill struct {
	r       *Registry
	reasons map[digest.Digest]string
	forReal bool
	read    int64
	grants  map[string]time.Time // by repository, when a right was last shown; nil: not read yet
}

func (d *drill) check(ctx context.Context, of digest.Digest) string {
	reason, known := d.reasons[of]
	if known {
		return reason
	}
	if reason = d.r.here(ctx, of); reason == "" && d.forReal {
		var bytes int64
		bytes, reason = d.r.readable(ctx, of)
		d.read += bytes
	}
	d.reasons[of] = reason
	return reason
}

func (d *drill) of(ctx context.Context, ref Reference) DrilledReference {
	one := DrilledReference{Reference: ref.String(), Platforms: []string{}, Lacks: []Lack{}}
	at := ref.Digest
	row, pinned := d.r.pinned(ref)
	t, tagged := d.r.tagged(ref.String())
	switch {
	case at != "":
		one.Pinned = pinned && row.Digest == at
	case pinned:
		at, one.Pinned = row.Digest, true
	case tagged:
		at = t.row.Digest
	default:
		one.Lacks = append(one.Lacks, Lack{Kind: "manifest", Reason: "not cached: nothing is known of this reference"})
		return one
	}
	one.Digest = at.String()
	if info, err := d.r.store.Stat(at); err == nil {
		one.UsedAt = info.Used
	}
	if one.Pinned {
		one.Platforms = append(one.Platforms, row.Platforms...)
	} else {
		one.Platforms = append(one.Platforms, d.r.platformsToDrill(ref, at)...)
	}
	lacks, dropped := partDropped(d.r.lacksOf(ctx, at, one.Platforms, d.check))
	one.Lacks, one.Dropped = append(one.Lacks, lacks...), dropped
	if at == t.row.Digest && tagged && !pinned && ref.Digest == "" {
		one.Lacks = append(one.Lacks, d.tooOld(ref, t)...)
	}
	d.rights(ref, &one)
	one.OK = len(one.Lacks) == 0
	return one
}

// tooOld tells that a tag was not confirmed for longer than its answer may be old.
func (d *drill) tooOld(ref Reference, t tag) []Lack {
	v, err := d.r.operatorView(ref.Repository)
	if err != nil || d.r.freshness(v, ref, t) != expired {
		return nil
	}
	return []Lack{{Kind: "tag", Reason: fmt.Sprintf("upstream last confirmed it %s ago, which is more than stale_max (%s)",
		d.r.now().Sub(t.checked).Round(time.Minute), v.upstream.options.StaleMax)}}
}

// platformsToDrill are those of an image that somebody asked for, else those
// that we would fetch.
func (r *Registry) platformsToDrill(ref Reference, at digest.Digest) []string {
	if top, err := r.local(at); err == nil {
		if here := r.platformsHere(top, false); len(here.any) > 0 {
			return here.any
		}
	}
	var given []string
	if v, err := r.operatorView(ref.Repository); err == nil {
		given = v.upstream.options.Platforms
	}
	wanted, err := CheckPlatforms(given)
	if err != nil {
		return []string{PlatformAll}
	}
	return wanted
}

// refreshDrill computes the gauge again, when it is old.
func (r *Registry) refreshDrill() {
	r.desired.mu.Lock()
	fresh := r.desired.drill != nil && r.now().Sub(r.desired.drilled) < drillEvery
	r.desired.mu.Unlock()
	if fresh {
		return
	}
	drilled, err := r.Drill(r.ctx, DrillOptions{Recent: drillRecent})
	if err != nil {
		return // we are closing
	}
	r.desired.mu.Lock()
	defer r.desired.mu.Unlock()
	drilled.References = nil // a gauge needs the numbers
	r.desired.drill, r.desired.drilled = &drilled, r.now()
}

// lastDrill is what refreshDrill found; nil before the first time.
func (r *Registry) lastDrill() *Drilled {
	r.desired.mu.Lock()
	defer r.desired.mu.Unlock()
	return r.desired.drill
}

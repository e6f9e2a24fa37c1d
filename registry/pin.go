package registry

import (
	"context"
	"errors"
	"slices"
	"strings"
)

// rootOfPin names the store's root that keeps what a pin needs.
const rootOfPin = "pin "

// pinned gives the pin of a reference.
func (r *Registry) pinned(ref Reference) (pinRow, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	row, ok := r.pins[ref.named().String()]
	return row, ok
}

// Pin freezes a reference at a digest and fetches all of it for some
// platforms: none means those of the pin that stands, else what the settings
// say, else the machine's own. The digest is the one that the reference names;
// else the one that it is pinned at, for a pin is not moved by the way, which
// [Registry.Update] is for; else the one that upstream gives now. From the
// moment its manifest is durable the reference answers with that digest.
//
// Where fetching fails afterwards, the pin stands, incomplete, and the
// converge loop goes on; the Pin is returned with the error. Where ctx ends
// before all is here, things are as they were. progress is as for Pull.
func (r *Registry) Pin(ctx context.Context, ref Reference, given []string, progress func(Progress)) (Pin, error) {
	return r.freeze(ctx, ref, given, progress, r.toPin)
}

// toPin is the manifest to freeze.
func (r *Registry) toPin(ctx context.Context, v view, ref Reference) (*Manifest, error) {
	d := ref.Digest
	if row, pinned := r.pinned(ref); d == "" && pinned {
		d = row.Digest
	}
	if d != "" {
		m, _, err := r.byDigest(ctx, v, d)
		return m, err
	}
	return r.resolveTag(ctx, v, ref)
}

// freeze pins what find finds.
func (r *Registry) freeze(ctx context.Context, ref Reference, given []string, progress func(Progress), find finder) (Pin, error) {
	v, err := r.operatorView(ref.Repository)
	if err != nil {
		return Pin{}, r.about(ref.String(), err)
	}
	key := ref.named().String()
	before, had := r.pinned(ref)
	if len(given) == 0 {
		given = before.Platforms
	}
	wanted, err := wantedOf(v.upstream, given)
	if err != nil {
		return Pin{}, err
	}
	report := newReport(ref, progress)
	report.phase(PhaseResolve)
	top, err := find(ctx, v, ref)
	if err != nil {
		return Pin{}, r.about(ref.String(), err)
	}
	if err := r.keepPinnable(ctx, top, wanted); err != nil {
		return Pin{}, r.about(ref.String(), err)
	}
	done := r.desired.take(key)
	defer func() { done(); nudge(r.lacks) }()
	row := r.newRow(top, wanted)
	var undo []pinChange
	if !had || !row.same(before) {
		if undo, err = r.changePins(pinChange{key: key, row: &row}); err != nil {
			return Pin{}, err
		}
	} else {
		row = before
	}
	err = r.fillPin(ctx, v, key, row, top, report)
	if err != nil && cancelled(ctx, err) {
		_, backErr := r.changePins(undo...)
		return Pin{}, errors.Join(err, backErr)
	}
	pin := r.pinOf(key, row)
	switch {
	case had && before.Digest == row.Digest:
		pin.Already = true
	case had:
		pin.MovedFrom = before.Digest.String()
	}
	return pin, r.about(ref.String(), err)
}

// finder gives the manifest to freeze a reference at.
type finder func(context.Context, view, Reference) (*Manifest, error)

// newRow is the row of a pin that is made now.
func (r *Registry) newRow(top *Manifest, wanted []string) pinRow {
	return pinRow{Digest: top.Descriptor.Digest, MediaType: top.Descriptor.MediaType, Size: top.Descriptor.Size,
		Platforms: wanted, At: r.now()}
}

// same tells whether two rows promise the same.
func (p pinRow) same(other pinRow) bool {
	return p.Digest == other.Digest && slices.Equal(p.Platforms, other.Platforms)
}

// keepPinnable makes a manifest durable. The choice of platforms is checked
// before anything changes: one that the index does not have is a mistake of
// the caller.
func (r *Registry) keepPinnable(ctx context.Context, top *Manifest, wanted []string) error {
	if _, err := top.choose(wanted); err != nil {
		return err
	}
	return r.store.Put(ctx, top.Descriptor, top.Content, top.parsed.digests()...)
}

// fillPin fetches what a pin lacks, for a caller who waits.
func (r *Registry) fillPin(ctx context.Context, v view, key string, row pinRow, top *Manifest, report *report) error {
	r.desired.begun(key, row.Digest, r.now())
	err := r.fetchAll(ctx, v, top, row.Platforms, report)
	if err != nil && cancelled(ctx, err) {
		return err
	}
	r.desired.ended(key, row.Digest, err, r.now())
	if err == nil {
		report.phase(PhaseDone)
	}
	return err
}

// Unpin lets a reference follow upstream again. Nothing is deleted. A
// reference that is not pinned is an error with [CodeManifestUnknown].
func (r *Registry) Unpin(_ context.Context, ref Reference) error {
	row, ok := r.pinned(ref)
	if !ok {
		return &Error{Code: CodeManifestUnknown, Reference: ref.String(), Message: "not pinned"}
	}
	if ref.Tag != "" && ref.Digest != "" && ref.Digest != row.Digest {
		return &Error{Code: CodePinned, Reference: ref.String(), Message: "pinned at " + row.Digest.String()}
	}
	_, err := r.changePins(pinChange{key: ref.named().String()})
	return err
}

// Pins lists all pins in the order of references. With drift, upstream is
// asked what each tag means now, for at most driftWait, and what changed.
func (r *Registry) Pins(ctx context.Context, drift bool) ([]Pin, error) {
	return r.tellPins(ctx, r.pinRows(), drift), nil
}

// PinsOf is Pins for some references. One that is not pinned is an error with
// [CodeManifestUnknown].
func (r *Registry) PinsOf(ctx context.Context, refs []Reference, drift bool) ([]Pin, error) {
	rows := map[string]pinRow{}
	for _, ref := range refs {
		row, ok := r.pinned(ref)
		if !ok {
			return nil, &Error{Code: CodeManifestUnknown, Reference: ref.String(), Message: "not pinned"}
		}
		rows[ref.named().String()] = row
	}
	return r.tellPins(ctx, rows, drift), nil
}

func (r *Registry) tellPins(ctx context.Context, rows map[string]pinRow, drift bool) []Pin {
	pins := make([]Pin, 0, len(rows))
	for key, row := range rows {
		pins = append(pins, r.pinOf(key, row))
	}
	slices.SortFunc(pins, func(a, b Pin) int { return strings.Compare(a.Reference, b.Reference) })
	if drift {
		r.findDrift(ctx, pins)
	}
	return pins
}

func (r *Registry) pinRows() map[string]pinRow {
	r.mu.RLock()
	defer r.mu.RUnlock()
	rows := make(map[string]pinRow, len(r.pins))
	for key, row := range r.pins {
		rows[key] = row
	}
	return rows
}

func (r *Registry) holdingOf(row pinRow) (holding, error) {
	top, err := r.local(row.Digest)
	if err != nil {
		return holding{}, err
	}
	p, err := r.localPlan(top, row.Platforms)
	if err != nil {
		return holding{}, err
	}
	return r.holds(p), nil
}

// alignRoots gives every pin its root and drops roots of pins that are gone:
// a kill between the two writes of setPin or dropPin leaves a root too many.
func (r *Registry) alignRoots() error {
	roots, err := r.store.Roots()
	if err != nil {
		return err
	}
	for key, row := range r.pins {
		if roots[rootOfPin+key] != row.Digest {
			if err := r.store.SetRoot(rootOfPin+key, row.Digest); err != nil {
				return err
			}
		}
	}
	for name := range roots {
		key, isPin := strings.CutPrefix(name, rootOfPin)
		if _, ok := r.pins[key]; isPin && !ok {
			if err := r.store.DeleteRoot(name); err != nil {
				return err
			}
		}
	}
	return nil
}

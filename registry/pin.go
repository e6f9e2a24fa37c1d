package registry

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
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
// before all is here, things are as they were, unless another caller was told
// of the pin, waits for it too, or changed it. A pin that came from the lockfile
// which is followed is not changed: [CodePinned]. progress is as for Pull.
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

// freeze pins what find finds. What another caller did to the pin meanwhile is
// looked at anew.
func (r *Registry) freeze(ctx context.Context, ref Reference, given []string, progress func(Progress), find finder) (Pin, error) {
	v, err := r.operatorView(ref.Repository)
	if err != nil {
		return Pin{}, r.about(ref.String(), err)
	}
	report := newReport(ref, progress)
	report.phase(PhaseResolve)
	for {
		seen := r.seePin(ref.named().String())
		top, row, err := r.toFreeze(ctx, v, ref, given, seen, find)
		if err != nil {
			return Pin{}, r.about(ref.String(), err)
		}
		pin, err := r.hold(ctx, v, ref, seen, row, top, report)
		if !errors.Is(err, errRaced) {
			return pin, err
		}
	}
}

// toFreeze finds a manifest, makes it durable, and gives the row of its pin.
func (r *Registry) toFreeze(ctx context.Context, v view, ref Reference, given []string, seen seenPin, find finder) (*Manifest, pinRow, error) {
	if len(given) == 0 && seen != nil {
		given = seen.Platforms
	}
	wanted, err := wantedOf(v.upstream, given)
	if err != nil {
		return nil, pinRow{}, err
	}
	top, err := find(ctx, v, ref)
	if err != nil {
		return nil, pinRow{}, err
	}
	row := r.newRow(top, wanted)
	row.Lockfile = seen != nil && seen.Lockfile
	return top, row, r.keepPinnable(ctx, top, wanted)
}

// hold makes a pin stand and fetches what it needs, or leaves things as they
// were where ctx ends before.
func (r *Registry) hold(ctx context.Context, v view, ref Reference, seen seenPin, row pinRow, top *Manifest, report *report) (Pin, error) {
	key := ref.named().String()
	done := r.desired.take(key)
	defer func() { done(); nudge(r.lacks) }()
	claimed, row, err := r.claimPin(key, seen, row)
	if err != nil {
		return Pin{}, err
	}
	err = r.fillPin(ctx, v, key, row, top, report)
	if err != nil && cancelled(ctx, err) {
		return Pin{}, errors.Join(err, r.releasePin(key, claimed))
	}
	r.settlePin(key, claimed)
	pin := r.pinOf(key, row)
	switch {
	case seen != nil && seen.Digest == row.Digest:
		pin.Already = true
	case seen != nil:
		pin.MovedFrom = seen.Digest.String()
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
	err := r.fetchAll(ctx, v, top, row.Platforms, true, report)
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
// reference that is not pinned is an error with [CodeManifestUnknown], one that
// is pinned at another digest than given, or by the lockfile that is followed,
// with [CodePinned].
func (r *Registry) Unpin(_ context.Context, ref Reference) error {
	key := ref.named().String()
	for {
		seen := r.seePin(key)
		if seen == nil {
			return &Error{Code: CodeManifestUnknown, Reference: ref.String(), Message: "not pinned"}
		}
		if ref.Tag != "" && ref.Digest != "" && ref.Digest != seen.Digest {
			return &Error{Code: CodePinned, Reference: ref.String(), Message: "pinned at " + seen.Digest.String()}
		}
		if err := r.changeSeen(seen, pinChange{key: key}); !errors.Is(err, errRaced) {
			return err
		}
	}
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
		if !ok { // of several it is told which
			return nil, &Error{Code: CodeManifestUnknown, Reference: ref.String(), Message: ref.named().String() + " is not pinned"}
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
	return r.holdsUnpacked(p, true), nil
}

// alignRoots gives every pin its root and drops roots of pins that are gone:
// a kill between the writes of changePinsLocked leaves roots too many or not yet moved.
func (r *Registry) alignRoots() error {
	roots, err := r.store.Roots()
	if err != nil {
		return err
	}
	pins := r.pinRows()
	missing := map[string]digest.Digest{}
	for key, row := range pins {
		if roots[rootOfPin+key] != row.Digest {
			missing[rootOfPin+key] = row.Digest
		}
	}
	var gone []string
	for name := range roots {
		key, isPin := strings.CutPrefix(name, rootOfPin)
		if _, ok := pins[key]; isPin && !ok {
			gone = append(gone, name)
		}
	}
	return r.store.ChangeRoots(missing, gone)
}

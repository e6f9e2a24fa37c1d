package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"
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

// Pin freezes a reference at a digest, the one that it names or that upstream
// gives now, and fetches all of it for some platforms: none means what the
// settings say, else the machine's own. From the moment its manifest is
// durable the reference answers with that digest.
//
// Where fetching fails afterwards, the pin stands, incomplete, and the
// converge loop goes on; the Pin is returned with the error. Where ctx ends
// before all is here, things are as they were. progress is as for Pull.
func (r *Registry) Pin(ctx context.Context, ref Reference, given []string, progress func(Progress)) (Pin, error) {
	v, err := r.operatorView(ref.Repository)
	if err != nil {
		return Pin{}, r.about(ref.String(), err)
	}
	wanted, err := wantedOf(v.upstream, given)
	if err != nil {
		return Pin{}, err
	}
	report := newReport(ref, progress)
	report.phase(PhaseResolve)
	top, err := r.toPin(ctx, v, ref)
	if err != nil {
		return Pin{}, r.about(ref.String(), err)
	}
	// The choice is checked before anything changes: a platform that the
	// index does not have is a mistake of the caller.
	if _, err := top.choose(wanted); err != nil {
		return Pin{}, r.about(ref.String(), err)
	}
	if err := r.store.Put(ctx, top.Descriptor, top.Content, top.parsed.digests()...); err != nil {
		return Pin{}, err
	}
	key := ref.named().String()
	row := pinRow{Digest: top.Descriptor.Digest, MediaType: top.Descriptor.MediaType, Size: top.Descriptor.Size, Platforms: wanted, At: r.now()}
	before, had, err := r.setPin(key, row)
	if err != nil {
		return Pin{}, err
	}
	err = r.fetchAll(ctx, v, top, wanted, report)
	if err != nil && cancelled(ctx, err) {
		return Pin{}, errors.Join(err, r.restorePin(key, before, had))
	}
	if err != nil {
		nudge(r.lacks)
		return r.pinOf(key, row), r.about(ref.String(), err)
	}
	report.phase(PhaseDone)
	return r.pinOf(key, row), nil
}

// toPin is the manifest to freeze: a pin that stands does not answer here, for
// pinning again is how a pin is moved knowingly.
func (r *Registry) toPin(ctx context.Context, v view, ref Reference) (*Manifest, error) {
	if ref.Digest != "" {
		m, _, err := r.byDigest(ctx, v, ref.Digest)
		return m, err
	}
	return r.resolveTag(ctx, v, ref)
}

// setPin writes the root before the row, so that what a row names is always
// kept. It returns what stood there.
func (r *Registry) setPin(key string, row pinRow) (before pinRow, had bool, err error) {
	r.pinning.Lock()
	defer r.pinning.Unlock()
	if err := r.store.SetRoot(rootOfPin+key, row.Digest); err != nil {
		return before, had, err
	}
	err = r.state.db.Update(func(tx *bolt.Tx) error { return put(tx, bucketPins, key, row) })
	if err != nil {
		return before, had, fmt.Errorf("write pin: %w", err)
	}
	r.mu.Lock()
	before, had = r.pins[key]
	r.pins[key] = row
	r.mu.Unlock()
	nudge(r.listed)
	return before, had, nil
}

func (r *Registry) restorePin(key string, before pinRow, had bool) error {
	if !had {
		return r.dropPin(key)
	}
	_, _, err := r.setPin(key, before)
	return err
}

// dropPin removes the row before the root, for the same reason as in setPin.
func (r *Registry) dropPin(key string) error {
	r.pinning.Lock()
	defer r.pinning.Unlock()
	err := r.state.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketPins).Delete([]byte(key)) })
	if err != nil {
		return fmt.Errorf("remove pin: %w", err)
	}
	r.mu.Lock()
	delete(r.pins, key)
	r.mu.Unlock()
	nudge(r.listed)
	return r.store.DeleteRoot(rootOfPin + key)
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
	return r.dropPin(ref.named().String())
}

// Pins lists all pins in the order of references. With drift, upstream is
// asked what each tag means now, for at most driftWait.
func (r *Registry) Pins(ctx context.Context, drift bool) ([]Pin, error) {
	rows := r.pinRows()
	pins := make([]Pin, 0, len(rows))
	for key, row := range rows {
		pins = append(pins, r.pinOf(key, row))
	}
	slices.SortFunc(pins, func(a, b Pin) int { return strings.Compare(a.Reference, b.Reference) })
	if drift {
		r.findDrift(ctx, pins)
	}
	return pins, nil
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

// pinOf tells how a pin stands.
func (r *Registry) pinOf(key string, row pinRow) Pin {
	pin := Pin{
		Reference: key, Digest: row.Digest.String(), MediaType: row.MediaType,
		Platforms: row.Platforms, Want: 1, PinnedAt: row.At,
	}
	h, err := r.holdingOf(row)
	if err != nil {
		return pin // not even the manifest can be read: 0 of 1
	}
	pin.Have, pin.Want, pin.Size, pin.Complete = h.have, h.want, h.bytes, h.complete()
	return pin
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

// driftWait bounds the question about drift, all pins together.
const driftWait = 10 * time.Second

func (r *Registry) findDrift(ctx context.Context, pins []Pin) {
	ctx, cancel := context.WithTimeoutCause(ctx, driftWait, errNoAnswer)
	defer cancel()
	var questions errgroup.Group
	questions.SetLimit(fetchesAtOnce)
	for i := range pins {
		questions.Go(func() error {
			now, err := r.upstreamDigest(ctx, pins[i].Reference)
			switch {
			case err != nil:
				pins[i].Drift, pins[i].DriftReason = DriftUnknown, err.Error()
			case now.String() == pins[i].Digest:
				pins[i].Drift, pins[i].UpstreamDigest = DriftSame, now.String()
			default:
				pins[i].Drift, pins[i].UpstreamDigest = DriftMoved, now.String()
			}
			return nil
		})
	}
	_ = questions.Wait() // each pin has its own reason
}

// upstreamDigest is what a reference means upstream now.
func (r *Registry) upstreamDigest(ctx context.Context, reference string) (digest.Digest, error) {
	ref, err := ParseReference(reference)
	if err != nil {
		return "", err
	}
	v, err := r.operatorView(ref.Repository)
	if err != nil {
		return "", err
	}
	head, err := v.upstream.head(ctx, ref.Path, ref.asked())
	if errors.Is(err, errNoHead) {
		got, err := v.upstream.manifest(ctx, ref.Path, ref)
		return got.Descriptor.Digest, err
	}
	return head.Digest, err
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

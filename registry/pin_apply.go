package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// ApplyOptions say how a [Lock] is made so.
type ApplyOptions struct {
	DryRun bool // tell what would change, and change nothing
	Prune  bool // unpin what is not in it
	// Followed: the lock is the lockfile that the daemon follows. Its pins are
	// marked, and those that it had before and has no more are unpinned.
	Followed bool
}

// Applied is what a [Lock] changed, or would.
type Applied struct {
	Changes []AppliedChange `json:"changes"` // in the order of references
	DryRun  bool            `json:"dry_run"`
}

// AppliedChange is one pin that changes. From is empty for a new pin, To for
// one that goes; both are the same where only the platforms change.
type AppliedChange struct {
	Action    string   `json:"action"` // add, move, remove
	Reference string   `json:"reference"`
	From      string   `json:"from,omitempty"`
	To        string   `json:"to,omitempty"`
	Platforms []string `json:"platforms,omitempty"`
}

// Values of AppliedChange.Action.
const (
	ActionAdd    = "add"
	ActionMove   = "move"
	ActionRemove = "remove"
)

// Apply makes the pins of a lock so: all of them, or none with an error for
// each reference that cannot be. Manifests that are not here are fetched
// first; layers by the converge loop, afterwards. What is cached needs no upstream.
// Unless it is that one, a lock changes no pin that came from the lockfile which
// is followed: [CodePinned].
func (r *Registry) Apply(ctx context.Context, lock Lock, o ApplyOptions) (Applied, error) {
	for {
		before := r.pinRows()
		changes, told, err := r.planApply(before, lock, o)
		applied := Applied{Changes: told, DryRun: o.DryRun}
		if err != nil || o.DryRun {
			return applied, err
		}
		if err = r.fetchPinnable(ctx, changes); err == nil {
			err = r.changeAll(lock, before, changes)
		}
		switch {
		case errors.Is(err, errRaced):
			continue
		case err != nil:
			return Applied{Changes: []AppliedChange{}}, err
		}
		nudge(r.lacks)
		return applied, nil
	}
}

// changeAll changes the pins of a lock, if all pins are still as they were when
// it was compared with them. Those that were as the lock has them stand from
// now on too, though who wanted them gives up.
func (r *Registry) changeAll(lock Lock, before map[string]pinRow, changes []pinChange) error {
	r.pinning.Lock()
	defer r.pinning.Unlock()
	same := func(a, b pinRow) bool { return a.same(b) && a.Lockfile == b.Lockfile }
	if !maps.EqualFunc(before, r.pinRows(), same) {
		return errRaced
	}
	if len(changes) > 0 {
		if _, err := r.changePinsLocked(changes...); err != nil {
			return err
		}
	}
	for _, pin := range lock.Pins {
		if pin.normalize() == nil {
			delete(r.desired.claims, pin.Reference)
		}
	}
	return nil
}

// planApply compares a lock with what is pinned. Of the rows that it gives,
// what only the manifest tells lacks.
func (r *Registry) planApply(rows map[string]pinRow, lock Lock, o ApplyOptions) (changes []pinChange, told []AppliedChange, err error) {
	told = []AppliedChange{}
	listed := map[string]bool{}
	for _, pin := range lock.Pins {
		if err := pin.normalize(); err != nil {
			return nil, told, &Error{Code: CodeNameInvalid, Reference: quoted(pin.Reference), Message: err.Error()}
		}
		if listed[pin.Reference] {
			return nil, told, &Error{Code: CodeNameInvalid, Reference: pin.Reference, Message: "stands twice in the list"}
		}
		listed[pin.Reference] = true
		row, err := r.lockedRow(pin, rows[pin.Reference])
		if err != nil {
			return nil, told, err
		}
		before, had := rows[pin.Reference]
		row.Lockfile = o.Followed || before.Lockfile
		if had && row.same(before) && row.Lockfile == before.Lockfile {
			continue
		}
		if err := r.mayApply(pin.Reference, before, o); err != nil && !row.same(before) {
			return nil, told, err
		}
		change := AppliedChange{Action: ActionAdd, Reference: pin.Reference, To: pin.Digest, Platforms: row.Platforms}
		if had {
			change.Action, change.From = ActionMove, before.Digest.String()
		}
		if !had || !row.same(before) {
			told = append(told, change)
		}
		if had && before.Digest == row.Digest {
			row.At = before.At
		}
		changes = append(changes, pinChange{key: pin.Reference, row: &row})
	}
	for key, row := range rows {
		if !listed[key] && (o.Prune || o.Followed && row.Lockfile) {
			if err := r.mayApply(key, row, o); err != nil {
				return nil, told, err
			}
			told = append(told, AppliedChange{Action: ActionRemove, Reference: key, From: row.Digest.String(), Platforms: row.Platforms})
			changes = append(changes, pinChange{key: key})
		}
	}
	slices.SortFunc(told, func(a, b AppliedChange) int { return strings.Compare(a.Reference, b.Reference) })
	return changes, told, nil
}

// mayApply refuses what would be a change by hand of a pin that comes from the
// lockfile which is followed.
func (r *Registry) mayApply(key string, row pinRow, o ApplyOptions) error {
	if o.Followed {
		return nil
	}
	return r.fromLockfile(key, &row)
}

// lockedRow is the row of a pin of a lock, without what its manifest tells.
func (r *Registry) lockedRow(pin LockedPin, before pinRow) (pinRow, error) {
	ref, err := pin.reference()
	if err != nil {
		return pinRow{}, err
	}
	v, err := r.operatorView(ref.Repository)
	if err != nil {
		return pinRow{}, r.about(pin.Reference, err)
	}
	given := pin.Platforms
	if len(given) == 0 {
		given = before.Platforms
	}
	wanted, err := wantedOf(v.upstream, given)
	return pinRow{Digest: ref.Digest, Platforms: wanted, At: r.now()}, err
}

// fetchPinnable makes the manifests of new pins durable, and completes their rows.
func (r *Registry) fetchPinnable(ctx context.Context, changes []pinChange) error {
	failed := make([]error, len(changes))
	var fetches errgroup.Group
	fetches.SetLimit(fetchesAtOnce)
	for i, c := range changes {
		if c.row == nil {
			continue
		}
		fetches.Go(func() error {
			failed[i] = r.fetchRow(ctx, c)
			return nil
		})
	}
	_ = fetches.Wait() // each has its own error
	return oneError(changes, failed)
}

// oneError tells of all pins that cannot be, with the code of the first.
func oneError(changes []pinChange, failed []error) error {
	var all *Error
	for i, err := range failed {
		var e *Error
		switch {
		case err == nil:
			continue
		case !errors.As(err, &e):
			return err
		case all == nil:
			all = &Error{Code: e.Code, RetryAfter: e.RetryAfter, Message: "nothing was changed, for not every pin can be"}
		}
		all.Message += fmt.Sprintf("; %s: %s", changes[i].key, err)
	}
	if all == nil {
		return nil
	}
	return all
}

func (r *Registry) fetchRow(ctx context.Context, c pinChange) error {
	ref, err := ParseReference(c.key)
	if err != nil {
		return err
	}
	v, err := r.operatorView(ref.Repository)
	if err != nil {
		return err
	}
	top, _, err := r.byDigest(ctx, v, c.row.Digest)
	if err != nil {
		return err
	}
	c.row.MediaType, c.row.Size = top.Descriptor.MediaType, top.Descriptor.Size
	return r.keepPinnable(ctx, top, c.row.Platforms)
}

package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Update moves a pin to the digest that upstream gives its tag now, and is
// otherwise as [Registry.Pin]. Upstream must answer: what is cached may be
// older than the pin. A reference that is not pinned is pinned.
func (r *Registry) Update(ctx context.Context, ref Reference, given []string, progress func(Progress)) (Pin, error) {
	return r.freeze(ctx, ref, given, progress, r.toUpdate)
}

func (r *Registry) toUpdate(ctx context.Context, v view, ref Reference) (*Manifest, error) {
	if ref.Digest != "" {
		m, _, err := r.byDigest(ctx, v, ref.Digest)
		return m, err
	}
	old, known := r.tagged(ref.String())
	if !known {
		m, _, err := r.firstTime(ctx, v, ref)
		return m, err
	}
	wait, cancel := context.WithTimeoutCause(ctx, answerWait, errNoAnswer)
	defer cancel()
	fresh, _, err := ask(wait, r, v.key("tag", ref), func(ctx context.Context) (tag, error) {
		return r.refresh(ctx, v, ref, old)
	})
	if err != nil {
		return nil, err
	}
	m, _, err := r.byDigest(ctx, v, fresh.row.Digest)
	return m, err
}

// Rollback moves a pin back to a digest that it had before: to, or the one
// before the present one when to is "". Rolling back twice goes forth again. A
// reference that was unpinned lately is pinned again. Unless fetch is set all
// of the image must be here still; otherwise the error has [CodeIncomplete] and
// names what lacks, and nothing changes. With fetch, what lacks is fetched
// before the pin moves. A pin that came from the lockfile which is followed is
// not moved: [CodePinned]. progress is as for Pull.
func (r *Registry) Rollback(ctx context.Context, ref Reference, to digest.Digest, fetch bool, progress func(Progress)) (Pin, error) {
	for {
		pin, err := r.rollback(ctx, ref, to, fetch, progress)
		if !errors.Is(err, errRaced) {
			return pin, err
		}
	}
}

func (r *Registry) rollback(ctx context.Context, ref Reference, to digest.Digest, fetch bool, progress func(Progress)) (Pin, error) {
	key := ref.named().String()
	past, err := r.history(key)
	if err != nil {
		return Pin{}, err
	}
	seen, before := r.seePin(key), pinRow{}
	if seen != nil {
		before = *seen
	}
	if err := r.fromLockfile(key, seen); err != nil {
		return Pin{}, err
	}
	target, refused := rollbackTarget(past, before.Digest, to)
	if refused != nil {
		return Pin{}, refused.about(key)
	}
	row := pinRow{Digest: target.Digest, MediaType: target.MediaType, Size: target.Size, Platforms: target.Platforms, At: r.now(), Lockfile: before.Lockfile}
	if err := r.wholeFor(ctx, ref, row, fetch, progress); err != nil {
		return Pin{}, r.about(key, err)
	}
	if err := r.changeSeen(seen, pinChange{key: key, row: &row}); err != nil {
		return Pin{}, err
	}
	nudge(r.lacks)
	pin := r.pinOf(key, row)
	if seen != nil {
		pin.MovedFrom = before.Digest.String()
	}
	return pin, nil
}

// rollbackTarget finds the digest to go back to.
func rollbackTarget(past []pastRow, now, to digest.Digest) (pastRow, *Error) {
	if to != "" && to == now {
		return pastRow{}, &Error{Code: CodePinned, Message: "already pinned at " + to.String()}
	}
	for _, p := range slices.Backward(past) {
		if p.Digest == to || to == "" && p.Digest != now {
			return p, nil
		}
	}
	if to != "" {
		return pastRow{}, &Error{Code: CodeManifestUnknown, Message: fmt.Sprintf("was never pinned at %s; pin it there with REF@%s", to, to)}
	}
	return pastRow{}, &Error{Code: CodeManifestUnknown, Message: "has no earlier digest to go back to"}
}

// lacksShown is how many lacks an error names.
const lacksShown = 3

// wholeFor makes sure that all a row needs is here.
func (r *Registry) wholeFor(ctx context.Context, ref Reference, row pinRow, fetch bool, progress func(Progress)) error {
	if fetch {
		v, err := r.operatorView(ref.Repository)
		if err != nil {
			return err
		}
		top, _, err := r.byDigest(ctx, v, row.Digest)
		if err != nil {
			return err
		}
		return r.fetchAll(ctx, v, top, row.Platforms, true, newReport(ref, progress))
	}
	lacks := r.lacksOf(ctx, row.Digest, row.Platforms, r.here)
	if r.dropping.lets(true) {
		lacks, _ = partDropped(lacks)
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if len(lacks) == 0 {
		return nil
	}
	var named []string
	for _, l := range lacks[:min(lacksShown, len(lacks))] {
		named = append(named, l.String())
	}
	if more := len(lacks) - lacksShown; more > 0 {
		named = append(named, fmt.Sprintf("and %d more", more))
	}
	return &Error{Code: CodeIncomplete, Message: fmt.Sprintf("%s is not wholly here any more (%s); --fetch fetches it",
		row.Digest, strings.Join(named, "; "))}
}

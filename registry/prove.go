package registry

import (
	"context"
	"errors"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// defaultGrantTTL is how long a right that was shown is believed without
	// asking: longer than a pull, and the longest that a right taken away
	// upstream outlives that here while upstream can be asked.
	defaultGrantTTL = 5 * time.Minute
	// defaultGrantGrace is how long it is believed while upstream cannot be
	// asked: a night and a morning.
	defaultGrantGrace = 24 * time.Hour
	// refusedFor is how long a refusal is remembered for the one it was meant
	// for: enough that one who guesses does not hammer the upstream through
	// us, short enough for one who just got the right.
	refusedFor = 5 * time.Second
)

// rights is what is known of callers and their credentials.
type rights struct {
	grants   *grants
	guests   *lru.Cache[string, *upstream] // by grants.id
	refusals absences                      // by who and repository
}

func newRights(s *state, routes *routes, now func() time.Time) (*rights, error) {
	var most time.Duration
	for _, u := range routes.byName {
		most = max(most, u.options.GrantTTL, u.options.GrantGrace)
	}
	grants, err := newGrants(s.db, now, most)
	if err != nil {
		return nil, err
	}
	guests, err := lru.New[string, *upstream](guestsMost)
	return &rights{grants: grants, guests: guests, refusals: absences{now: now}}, err
}

// asCaller is the view of a caller with its own credential; v is nobody's.
// Whether it has a right is still to be shown.
func (r *Registry) asCaller(v view, c Caller) (view, error) {
	u := v.upstream
	id, err := r.rights.grants.id(u, c)
	if err != nil {
		return view{}, err
	}
	guest, ok := r.rights.guests.Get(id)
	if !ok {
		guest = u.guest(c, func(path string) { r.withdraw(id, Repository{Registry: u.name, Path: path}) })
		r.rights.guests.Add(id, guest)
	}
	v.upstream, v.open, v.caller = guest, true, id
	return v, nil
}

// withdraw takes a right back that upstream refuses.
func (r *Registry) withdraw(id string, in Repository) {
	dropped, err := r.rights.grants.drop(id, in)
	if err != nil {
		r.log.Error("right not withdrawn on disk", "repository", in.String(), "error", err)
	}
	if dropped {
		r.log.Info("upstream refuses a caller whom it accepted before", "repository", in.String())
	}
}

// standing is how a caller stands with a repository.
type standing int

const (
	standsNot  standing = iota
	stoodOnce           // it has shown a right, and is believed while upstream cannot be asked
	standsFast          // it has shown a right lately
)

func (r *Registry) standing(own view) standing {
	at, err := r.rights.grants.proven(own.caller, own.repository)
	if err != nil {
		r.log.Error("grant not read, the right has to be shown again", "repository", own.repository.String(), "error", err)
	}
	if err != nil || at.IsZero() {
		return standsNot
	}
	age := r.now().Sub(at)
	switch o := own.upstream.options; {
	case age < 0: // the clock was set back, and how old it is nobody knows
		return standsNot
	case age < o.GrantTTL:
		return standsFast
	case age < o.GrantGrace:
		return stoodOnce
	}
	return standsNot
}

// prove makes sure that the caller has a right to the repository: it has shown
// one lately, or upstream accepts its credential for what it asks for, or it
// has shown one not long ago and upstream cannot be asked. A caller that has an
// answer, as nobody in particular gets it, waits no longer than for a fresher one.
func (r *Registry) prove(ctx context.Context, own view, w wish, answered bool) error {
	stands := r.standing(own)
	if stands == standsFast {
		return nil
	}
	right, question := own.key("right", Reference{Repository: own.repository}), own.key("right to "+string(w.subject), w.Reference)
	for _, known := range []error{r.rights.refusals.check(right), r.unknown.check(question)} {
		if known != nil {
			return known
		}
	}
	if stands == standsNot {
		if err := own.limitedFor(w.subject); err != nil {
			return err
		}
	}
	limit, slow := answerWait, error(errNoAnswer)
	if stands == stoodOnce && own.upstream.isResting() {
		return nil
	}
	if stands == stoodOnce || answered {
		limit, slow = r.staleWait, errSlow
	}
	wait, cancel := context.WithTimeoutCause(ctx, limit, slow)
	defer cancel()
	_, _, err := ask(wait, r, question, func(ctx context.Context) (bool, error) {
		err := r.askRight(ctx, own, w)
		var e *Error
		if errors.As(err, &e) && e.refuses() {
			r.rights.refusals.remember(right, err, refusedFor)
		}
		r.unknown.note(question, err)
		return err == nil, err
	})
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, errSlow):
		own.upstream.slow(r.staleWait)
	}
	if stands == stoodOnce && cannotBeAsked(err) {
		return nil
	}
	return err
}

// cannotBeAsked reports whether err says nothing about the question.
func cannotBeAsked(err error) bool {
	var e *Error
	return err != nil && (!errors.As(err, &e) || !e.Permanent())
}

// askRight shows the caller's credential to upstream and keeps the grant if it
// is accepted. Where upstream has not what is asked for, as it is with a tag
// that was deleted there and is pinned here, its list of tags may tell.
func (r *Registry) askRight(ctx context.Context, own view, w wish) error {
	err := r.askFor(ctx, own, w)
	var e *Error
	if errors.As(err, &e) && e.Code == w.subject.unknown() && w.subject != subjectTags {
		// An empty list is what some registries answer to anybody.
		if tags, _, listing := own.upstream.tagsPage(ctx, w.Path, "n=1"); listing == nil && len(tags) > 0 {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	if err := r.rights.grants.put(own.caller, own.repository); err != nil {
		r.log.Error("grant not written, it is good until the next start", "repository", own.repository.String(), "error", err)
	}
	return nil
}

func (r *Registry) askFor(ctx context.Context, own view, w wish) error {
	switch {
	case w.subject == subjectTags:
		_, _, err := own.upstream.tagsPage(ctx, w.Path, "n=1")
		return err
	case w.Digest != "":
		return r.askHold(ctx, own, w.Digest, w.subject)
	}
	return own.has(ctx, w.Reference)
}

// has asks whether upstream has a manifest, by HEAD where it can.
func (v view) has(ctx context.Context, ref Reference) error {
	_, err := v.upstream.head(ctx, ref.Path, ref.asked())
	if errors.Is(err, errNoHead) {
		_, err = v.upstream.ownManifest(ctx, ref.Path, ref) // what a mirror has proves nothing
	}
	return err
}

package registry

import (
	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/layerstore"
)

// view is a repository as a caller may see it: through an upstream that the
// operator opened, with our credential; with the caller's own, where it has
// shown a right; otherwise as anybody would, without.
type view struct {
	repository Repository
	upstream   *upstream
	open       bool   // what was got with a credential may be seen
	caller     string // whose credential it is asked with, a hash; "" for ours or none
	everywhere bool   // every upstream is open and this one takes no pushes, so a digest needs no repository that holds it
	spare      bool   // nobody waits for what is not here, so that the rest of upstream's allowance is left alone
}

// view finds the upstream of a repository and what callers who have shown
// nothing may see of it.
func (r *Registry) view(in Repository) (view, error) {
	u, err := r.routes.upstream(in.Registry)
	if err != nil {
		return view{}, err
	}
	if u.home != nil { // who may see it is not for an upstream to say
		return view{repository: in, upstream: u, open: true}, nil
	}
	// Who pushes sends no blob that it is told is there, which upstream must mean of this repository.
	through := u.options.Push == PushThrough
	v := view{repository: in, upstream: u, open: r.opened(u), everywhere: r.allOpen && !r.ruled && !through}
	if !v.open {
		v.upstream = u.anonymous()
	}
	return v, nil
}

// operatorView is for what the operator asks for: with the credential,
// whatever callers may see.
func (r *Registry) operatorView(in Repository) (view, error) {
	u, err := r.routes.upstream(in.Registry)
	return view{repository: in, upstream: u, open: true, everywhere: true}, err
}

// Values of UpstreamOptions.Access.
const (
	AccessOpen   = "open"
	AccessProven = "proven"
)

func (r *Registry) opened(u *upstream) bool {
	if u.options.Access == "" {
		return r.open
	}
	return u.options.Access == AccessOpen
}

func (r *Registry) opensAll() bool {
	for _, u := range r.routes.byName {
		if u.home == nil && !r.opened(u) {
			return false
		}
	}
	return true
}

// may reports whether something that was got publicly, or not, may be seen.
func (v view) may(public bool) bool { return v.open || public }

// sees reports whether what is held so may be seen. What only a mirror has shown
// is for those whom the operator lets see all that we can get.
func (v view) sees(how string) bool {
	switch how {
	case holdPublic:
		return true
	case holdPrivate:
		return v.open
	case holdMirror:
		return v.open && v.caller == ""
	}
	return false
}

// believesMirrors reports whether what a mirror sends may be seen in this view
// without upstream having been asked.
func (v view) believesMirrors() bool {
	return len(v.upstream.mirrors) > 0 && v.open && v.caller == ""
}

// key names a question to upstream: the same question in another view, with
// another right, is another question.
func (v view) key(kind string, about Reference) string {
	right := "anonymous "
	switch {
	case v.caller != "":
		right = v.caller + " "
	case v.open:
		right = "open "
	}
	if v.spare {
		right = "sparing " + right
	}
	return right + kind + " " + about.String()
}

// limited is the error while upstream has asked us to leave it alone for
// having asked too much, or hangs and is being probed; nil otherwise, and where
// mirrors may know. One that merely fails is asked again: the caller has nothing
// else.
func (v view) limited() error {
	if v.believesMirrors() {
		return nil
	}
	if _, why, resting := v.upstream.resting(); resting && why.Code == CodeTooMany {
		return why
	}
	return v.hung()
}

func (v view) hung() error {
	if why := v.upstream.pulse.hung(); why != nil {
		return why
	}
	return nil
}

// limitedFor is limited for questions of one kind: what limits one need not
// limit the other.
func (v view) limitedFor(s subject) error {
	if s != subjectBlob {
		return v.limited()
	}
	if why := v.upstream.limit.restingFor(s); why != nil {
		return why
	}
	return v.hung()
}

// source is where the bytes of a blob of the repository come from.
func (v view) source(d digest.Digest) layerstore.Source {
	return v.upstream.blob(v.repository.Path, d)
}

// Proving reports whether callers' own credentials count with some upstream: it
// is not open, so that what took a secret is served only to those who have shown
// a right to it, or takes what they push.
func (r *Registry) Proving() bool { return !r.allOpen || r.routes.takePushes() }

func (r *routes) takePushes() bool {
	for _, u := range r.byName {
		if u.options.Push == PushThrough {
			return true
		}
	}
	return false
}

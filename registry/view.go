package registry

import (
	"context"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

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
	everywhere bool   // every upstream is open, so a digest needs no repository that holds it
}

// view finds the upstream of a repository and what callers who have shown
// nothing may see of it.
func (r *Registry) view(in Repository) (view, error) {
	u, err := r.routes.upstream(in.Registry)
	if err != nil {
		return view{}, err
	}
	v := view{repository: in, upstream: u, open: r.opened(u), everywhere: r.allOpen()}
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

func (r *Registry) allOpen() bool {
	for _, u := range r.routes.byName {
		if !r.opened(u) {
			return false
		}
	}
	return true
}

// may reports whether something that was got publicly, or not, may be seen.
func (v view) may(public bool) bool { return v.open || public }

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
	return right + kind + " " + about.String()
}

// limited is the error while upstream has asked us to leave it alone for
// having asked too much, nil otherwise. One that merely fails is asked again:
// the caller has nothing else.
func (v view) limited() error {
	if _, why, resting := v.upstream.resting(); resting && why.Code == CodeTooMany {
		return why
	}
	return nil
}

// allow decides whether a digest may be seen in a repository: a right is held
// for a repository that is known to hold the digest, never for a digest. Where
// nothing is known, upstream is asked by HEAD.
func (r *Registry) allow(ctx context.Context, v view, d digest.Digest, manifest bool) error {
	if v.everywhere {
		return nil
	}
	how, err := r.state.hold(v.repository, d)
	if err != nil {
		return err
	}
	if how != "" && v.may(how == holdPublic) {
		return nil
	}
	_, _, err = ask(ctx, r, v.key("hold", Reference{Repository: v.repository, Digest: d}), func(ctx context.Context) (bool, error) {
		return true, r.askHold(ctx, v, d, manifest)
	})
	return err
}

func (r *Registry) askHold(ctx context.Context, v view, d digest.Digest, manifest bool) (err error) {
	if manifest {
		err = v.has(ctx, Reference{Repository: v.repository, Digest: d})
	} else {
		_, err = v.upstream.blobSize(ctx, v.repository.Path, d)
	}
	if err != nil {
		return err
	}
	err = r.state.db.Batch(func(tx *bolt.Tx) error {
		return putHolds(tx, v.repository, []digest.Digest{d}, !v.open)
	})
	if err != nil { // upstream has said yes; it is asked again next time
		r.log.Error("a right that was shown is not noted", "repository", v.repository.String(), "digest", d, "error", err)
	}
	return nil
}

// source is where the bytes of a blob of the repository come from.
func (v view) source(d digest.Digest) layerstore.Source {
	return v.upstream.blob(v.repository.Path, d)
}

// Proving reports whether some upstream is not open, so that what took a
// secret is served only to callers who have shown a right to it.
func (r *Registry) Proving() bool { return !r.allOpen() }

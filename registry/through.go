package registry

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// PushThrough is the value of UpstreamOptions.Push that sends pushes on.
const PushThrough = "through"

// Through reports whether pushes to a registry's name are sent on to it.
func (r *Registry) Through(registry string) bool {
	u, err := r.routes.upstream(registry)
	return err == nil && u.options.Push == PushThrough
}

// Takes reports whether images of a registry's name may be pushed to us at all.
func (r *Registry) Takes(registry string) bool {
	u, err := r.routes.upstream(registry)
	return err == nil && (u.home != nil || u.options.Push == PushThrough)
}

// destination is where what is pushed to a repository goes: nil for a home,
// else the upstream, with the credential of who pushes: its own, or, of one that
// has shown none, the operator's where a rule of the operator's names it. Errors have
// [CodeUnsupported] where pushes are not taken.
func (r *Registry) destination(ctx context.Context, in Repository) (*view, error) {
	v, err := r.view(in)
	switch {
	case err != nil:
		return nil, err
	case v.upstream.home != nil:
		return nil, nil
	case !r.Through(in.Registry):
		return nil, &Error{Code: CodeUnsupported, Reference: in.String(), Message: fmt.Sprintf(
			`%s is no home: push to %s/…, to %s itself, or set push = "through" for it`, in.Registry, LocalHome, in.Registry)}
	case asOperator(ctx, in):
		v, err = r.operatorView(in)
		return &v, err
	}
	caller := callerOf(ctx)
	if caller.Anonymous() {
		return nil, &Error{Code: CodeUnauthorized, Reference: in.String(), SignIn: in.Registry, Message: "a credential with a right to change this repository is wanted"}
	}
	v, err = r.asCaller(v, caller)
	return &v, err
}

// asOperator reports whether a change of an upstream's repository goes there with
// the operator's credential. One of the caller's own is for upstream to judge.
func asOperator(ctx context.Context, in Repository) bool {
	return callerOf(ctx).Anonymous() && rightOf(ctx, in)
}

// pushed is an error of an upstream as who pushed or deletes is to see it: a
// caller whose own credential is refused is asked for another one.
func (r *Registry) pushed(ctx context.Context, in Repository, err error) error {
	err = r.about(in.String(), err)
	var e *Error
	if errors.As(err, &e) && e.Code == CodeUnauthorized && !asOperator(ctx, in) {
		asked := *e
		asked.SignIn = in.Registry
		return &asked
	}
	return err
}

// passBlob sends a sealed blob on, unless upstream has it.
func (r *Registry) passBlob(ctx context.Context, v view, d digest.Digest) error {
	if _, err := v.upstream.blobSize(ctx, v.repository.Path, d); err == nil {
		r.noteHold(v.repository, d, false)
		return nil
	}
	info, err := r.store.Stat(d)
	if err != nil {
		return err
	}
	err = v.upstream.sendBlob(ctx, v.repository.Path, d, info.Size, func() (io.ReadCloser, error) {
		return r.store.Fetch(ctx, specs.Descriptor{Digest: d, Size: info.Size}, nil)
	})
	if err == nil {
		r.noteHold(v.repository, d, false)
	}
	return r.pushed(ctx, v.repository, r.about(v.repository.String()+"@"+d.String(), err))
}

// passManifest sends a manifest on and keeps it as if it had been pulled. listed
// is as sendManifest has it.
func (r *Registry) passManifest(ctx context.Context, v view, ref Reference, m *Manifest) (listed digest.Digest, err error) {
	d := m.Descriptor
	listed, err = v.upstream.sendManifest(ctx, ref.Path, ref.asked(), d.MediaType, m.Content)
	if err != nil {
		return "", r.pushed(ctx, ref.Repository, r.about(ref.String(), err))
	}
	r.referrersKnown.Purge() // it may be one
	m = r.take(ref.Repository, fetchedManifest{Descriptor: d, Content: m.Content, parsed: m.parsed})
	r.unknown.clear() // it may have been asked for in vain just now
	r.show(ref.Repository, d.Digest, holdPrivate)
	if ref.Digest != "" {
		r.background(func() {
			r.keepOrLater(ref.String(), d.Size, func() error { return r.keep(r.ctx, m, ref.Repository, holdPrivate) })
		})
		return listed, nil
	}
	t := r.move(ref, tagRow{Digest: d.Digest, MediaType: d.MediaType, Size: d.Size, Checked: r.now()})
	r.background(func() { r.keepTag(m, ref, t.row, holdPrivate) })
	return listed, nil
}

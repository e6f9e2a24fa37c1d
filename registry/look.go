package registry

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"
)

// wish is what a caller asks for.
type wish struct {
	Reference         // of a manifest by tag or digest, of a blob by digest; of a list of tags neither
	subject   subject // subjectManifest, subjectBlob or subjectTags
}

func (w wish) String() string {
	if w.subject == subjectTags {
		return w.Repository.String()
	}
	return w.Reference.String()
}

// asksForBlob makes the wish for a blob.
func asksForBlob(in Repository, d digest.Digest) wish {
	return wish{Reference{Repository: in, Digest: d}, subjectBlob}
}

// look answers a wish as far as the caller of ctx may see. What anybody may
// see is looked for first: then nobody's credential is shown to an upstream it
// was not meant for, as it is when a client has one login for all that it
// pulls through us. Only where that is refused does the caller's own count.
//
// Errors tell nothing of what is here: they are the same for what is cached
// and what is not.
func look[T any](ctx context.Context, r *Registry, w wish, do func(view) (T, Answer, error)) (T, Answer, error) {
	v, err := r.view(w.Repository)
	if err != nil {
		var none T
		return none, Answer{}, err
	}
	caller := callerOf(ctx)
	if !v.open && rightOf(ctx, w.Repository) {
		if v, err = r.operatorView(w.Repository); err != nil {
			var none T
			return none, Answer{}, err
		}
		v.everywhere = false
	}
	if v.open {
		return do(v)
	}
	if caller.Anonymous() {
		got, a, err := do(v)
		return got, a, told(w, caller, err)
	}
	got, a, err := lookAs(ctx, r, w, v, caller, do)
	return got, a, told(w, caller, err)
}

// lookAs is look for a caller who has shown a credential; v is nobody's view.
func lookAs[T any](ctx context.Context, r *Registry, w wish, v view, c Caller, do func(view) (T, Answer, error)) (got T, a Answer, err error) {
	own, err := r.asCaller(v, c)
	if err != nil {
		return got, a, err
	}
	public := r.standing(own) == standsNot
	if public {
		got, a, err = do(v)
		if !closedToNobody(a, err) || err == nil && own.upstream.isResting() {
			return got, a, err
		}
	}
	if refused := r.prove(ctx, own, w, public && err == nil); refused != nil {
		if !public {
			got, a, err = do(v)
		}
		if err == nil {
			return got, a, nil
		}
		return got, a, refused
	}
	got, a, err = do(own)
	if err == nil && a.Outcome == OutcomeStale && r.standing(own) == standsNot {
		// It is stale because upstream, asked just now, took the right away.
		var none T
		return none, Answer{}, &Error{Code: CodeUnauthorized}
	}
	return got, a, err
}

// closedToNobody reports whether a credential could make a better answer than
// the one that was got without.
func closedToNobody(a Answer, err error) bool {
	if err == nil {
		return a.Outcome == OutcomeStale
	}
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case CodeUnauthorized, CodeDenied, CodeTooMany:
		return true
	case CodeManifestUnknown, CodeBlobUnknown, CodeNameUnknown: // which some registries say of all that is private
		return true
	}
	return false
}

// told makes an error of an upstream that is not open one that says nothing of
// what is here: in whose words upstream refused, and to which question, depends
// on that. The cause keeps it for the log.
func told(w wish, c Caller, err error) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	plainly := &Error{Code: e.Code, Reference: w.String(), Message: e.Message, RetryAfter: e.RetryAfter, Err: e.Err, final: e.final}
	switch e.Code {
	case CodeDenied:
		plainly.Message = "upstream refuses this"
		if !c.Anonymous() {
			break
		}
		// Nothing was shown that could be refused.
		plainly.Code = CodeUnauthorized
		fallthrough
	case CodeUnauthorized:
		plainly.Message = "a credential with a right to this repository is wanted"
		plainly.SignIn = w.Registry
	case CodeManifestUnknown, CodeBlobUnknown, CodeNameUnknown:
		plainly.Code = w.subject.unknown()
		plainly.Message = "upstream has no such " + string(w.subject)
	default:
		return plainly
	}
	if e.Message != plainly.Message {
		plainly.Err = e
	}
	return plainly
}

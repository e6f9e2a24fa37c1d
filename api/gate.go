package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/imagecache/imagecache/api/access"
	"github.com/imagecache/imagecache/registry"
)

// denial says that a caller may not do what it asks for.
type denial struct {
	challenge string // "" for who is known: to sign in again changes nothing
	refused   *access.Refusal
}

func (d *denial) Error() string {
	switch {
	case d.refused != nil:
		return d.refused.Error()
	case d.challenge != "":
		return "sign in: who is not known may not do this"
	}
	return "no rule allows this to you"
}

func refusedBy(err error) *denial {
	d := &denial{}
	errors.As(err, &d.refused)
	return d
}

// identify finds out who asks. Where callers sign in with us, nothing that
// comes later sees their credential; elsewhere it is one for an upstream.
func (s *Server) identify(w *record, r *http.Request) (*http.Request, error) {
	c, err := s.gate.Identify(r)
	if err != nil {
		denied := refusedBy(err)
		denied.challenge = s.gate.Challenge(r, access.Pull, "")
		return r, denied
	}
	if s.gate.SignsIn() {
		w.shown = r.Header.Get("Authorization") != ""
		r.Header.Del("Authorization")
	} else {
		r = asCaller(r)
	}
	w.caller = c
	return r, nil
}

// rightful notes with a context that a rule names the caller for what it does
// in a repository. By a rule for anonymous it sees what anonymous would.
func (s *Server) rightful(ctx context.Context, c access.Caller, verb access.Verb, in registry.Repository) context.Context {
	if s.gate.Names(c, verb, in.String()) {
		return registry.WithRight(ctx, in)
	}
	return ctx
}

// closed is an error as a caller is to hear it who has signed in with us: there
// is no other credential by which it could see what an upstream keeps closed.
func (s *Server) closed(w *record, err error) error {
	var known *registry.Error
	if s.gate.SignsIn() && w.caller.Known() && errors.As(err, &known) && known.SignIn != "" {
		return &denial{}
	}
	return err
}

// permit lets a caller do something in a repository, or says why not.
func (s *Server) permit(w *record, r *http.Request, verb access.Verb, repository string) error {
	if s.gate.Allow(w.caller, verb, repository) {
		return nil
	}
	if w.caller.Known() {
		return &denial{}
	}
	return &denial{challenge: s.gate.Challenge(r, verb, repository)}
}

// verbOf is what a request wants to do.
func verbOf(r *http.Request, k kind) access.Verb {
	switch {
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		if k == kindUpload { // the state of a push
			return access.Push
		}
		return access.Pull
	case r.Method == http.MethodDelete && k != kindUpload:
		return access.Delete
	}
	return access.Push
}

// signedIn is for what is answered to everybody, in different ways: the question
// that clients ask first, from which alone docker learns whether it has to sign
// in, and the catalog. Who has shown nothing is asked to, and gets a token for
// nobody if it cannot.
func (s *Server) signedIn(w *record, r *http.Request) error {
	if s.gate.SignsIn() && !w.shown && !w.caller.Known() {
		return &denial{challenge: s.gate.Challenge(r, access.Pull, "")}
	}
	return nil
}

package api

import (
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
	if c.Known() && s.gate.Ruled() {
		r = r.WithContext(registry.WithRight(r.Context()))
	}
	return r, nil
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

// signedIn answers the question that clients ask first. Docker learns from it
// alone whether it has to sign in, so that who has shown nothing is asked to,
// and gets a token for nobody if it cannot.
func (s *Server) signedIn(w *record, r *http.Request) error {
	if s.gate.SignsIn() && !w.shown && !w.caller.Known() {
		return &denial{challenge: s.gate.Challenge(r, access.Pull, "")}
	}
	return nil
}

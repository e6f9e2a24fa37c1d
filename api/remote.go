package api

import (
	"net/http"
	"strings"

	"github.com/imagecache/imagecache/api/access"
)

// RemoteAdmin serves what [Server.Admin] does to whoever a rule lets administrate,
// for an address that others than this machine reach. Nobody is let in who has
// not shown who it is, whatever the rules say of everybody. To match blobs
// no more is wanted than to be known: what is told are blobs that the caller may pull.
// Root filesystems are for this machine alone: they are mounted by who asks.
func (s *Server) RemoteAdmin() http.Handler { return s.administration(s.guarded, s.scrapes) }

// Paths for which other rules hold there.
const (
	matchPath   = "/api/v1/match"
	rootfsPath  = "/api/v1/rootfs"
	metricsPath = "/metrics"
)

// guarded lets a handler answer who may ask it.
func (s *Server) guarded(h handler) handler {
	admitted := s.admitting(s.mayAdministrate)(h)
	return func(w *record, r *http.Request) error {
		w.remote = true
		return admitted(w, r)
	}
}

// scrapes lets a handler answer who may see the metrics: everybody where no rule
// is in force, else whoever a rule lets.
func (s *Server) scrapes(h handler) handler {
	if !s.gate.Ruled() {
		return h
	}
	return s.admitting(s.mayScrape)(h)
}

// admitting makes a guard that finds out who asks, and lets those in whom a
// check does not refuse.
func (s *Server) admitting(check func(c access.Caller, r *http.Request) error) guard {
	return func(h handler) handler {
		return func(w *record, r *http.Request) error {
			c, err := s.gate.Identify(r)
			if err != nil {
				denied := refusedBy(err)
				denied.challenge = s.adminChallenge()
				return denied
			}
			r.Header.Del("Authorization") // nobody behind this has a use for it
			w.caller = c
			done, err := s.gate.Enter(r, c)
			if err != nil {
				return refusedBy(err)
			}
			defer done()
			if err := check(c, r); err != nil {
				return err
			}
			return h(w, r)
		}
	}
}

func (s *Server) mayAdministrate(c access.Caller, r *http.Request) error {
	switch {
	case !c.Known():
		return &denial{challenge: s.adminChallenge()}
	case r.URL.Path == matchPath:
	case !s.gate.Allow(c, access.Admin, ""):
		return &denial{}
	case strings.HasPrefix(r.URL.Path, rootfsPath):
		return errOnlyHere
	}
	return nil
}

func (s *Server) mayScrape(c access.Caller, _ *http.Request) error {
	switch {
	case s.gate.Scrapes(c):
		return nil
	case c.Known():
		return &denial{}
	}
	return &denial{challenge: s.adminChallenge()}
}

// adminChallenge is a plain one: people and scripts ask here, which have no use
// for a token service.
func (s *Server) adminChallenge() string {
	if !s.gate.SignsIn() {
		return `Certificate realm="imagecache"`
	}
	return `Basic realm="imagecache"`
}

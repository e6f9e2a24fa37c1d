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
func (s *Server) RemoteAdmin() http.Handler { return s.administration(s.guarded) }

// Paths for which other rules hold there.
const (
	matchPath  = "/api/v1/match"
	rootfsPath = "/api/v1/rootfs"
)

// guarded lets a handler answer who may ask it.
func (s *Server) guarded(h handler) handler {
	return func(w *record, r *http.Request) error {
		w.remote = true
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
		switch {
		case !c.Known():
			return &denial{challenge: s.adminChallenge()}
		case r.URL.Path == matchPath:
		case !s.gate.Allow(c, access.Admin, ""):
			return &denial{}
		case strings.HasPrefix(r.URL.Path, rootfsPath):
			return errOnlyHere
		}
		return h(w, r)
	}
}

// adminChallenge is a plain one: people and scripts ask here, which have no use
// for a token service.
func (s *Server) adminChallenge() string {
	if !s.gate.SignsIn() {
		return `Certificate realm="imagecache"`
	}
	return `Basic realm="imagecache"`
}

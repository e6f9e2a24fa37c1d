package api

import (
	"net"
	"net/http"
	"strings"
)

// ownPages refuses what web pages from elsewhere would change: a browser on
// this machine reaches a loopback address as well as its user does.
func (s *Server) ownPages(k kind, h http.Handler) http.Handler {
	pages := http.NewCrossOriginProtection()
	pages.SetDenyHandler(s.handle(k, func(*record, *http.Request) error { return errCrossOrigin }))
	return pages.Handler(h)
}

// ownNames refuses what was sent to a TCP address of this machine under a name
// that is not this machine's own. A web page may have its name's address changed
// to ours when it has been read (DNS rebinding): for the browser all that it asks
// then, and all that it is answered, is its own. Addresses cannot be changed so,
// and over a unix socket names mean nothing.
func (s *Server) ownNames(h http.Handler) http.Handler {
	refuse := s.handle(kindAdmin, func(*record, *http.Request) error { return errForeignName })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, tcp := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); tcp && !isOwnName(r.Host) {
			refuse.ServeHTTP(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func isOwnName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.EqualFold(host, "localhost") || net.ParseIP(strings.Trim(host, "[]")) != nil
}

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

// ownBrowsers does the same for the mirror, where programs may call us by any name,
// but browsers not, as long as whoever reaches us on loopback may see all that we
// can get: where no rule is in force.
func (s *Server) ownBrowsers(h http.Handler) http.Handler {
	if s.gate.Ruled() {
		return h
	}
	refuse := s.handle(kindOther, func(*record, *http.Request) error { return errForeignPage })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at, tcp := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
		if tcp && at.IP.IsLoopback() && ofBrowser(r.Header) && !isOwnName(r.Host) {
			refuse.ServeHTTP(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// ofBrowser reports whether a request has what browsers send: all of them say a
// language, which a page can change and not leave out.
func ofBrowser(h http.Header) bool {
	for _, field := range [...]string{"Accept-Language", "Origin", "Referer", "Sec-Fetch-Site"} {
		if _, ok := h[field]; ok {
			return true
		}
	}
	return strings.HasPrefix(h.Get("User-Agent"), "Mozilla/")
}

func isOwnName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.EqualFold(host, "localhost") || net.ParseIP(strings.Trim(host, "[]")) != nil
}

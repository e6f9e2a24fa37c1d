package api

import (
	"io"
	"net/http"
)

// healthz says that the process answers at all. It asks nothing else, so that
// a supervisor does not restart a daemon whose disk or upstream is at fault.
func (s *Server) healthz(w *record, _ *http.Request) error {
	return plain(w, "ok\n")
}

// readyz says whether requests should be sent here: not while we are told to
// stop. A store that can keep nothing is no reason: pulls go past it, and who
// took us away for it would make them fail. Status and metrics tell of it.
func (s *Server) readyz(w *record, _ *http.Request) error {
	if s.draining.Load() {
		return errDraining
	}
	return plain(w, "ready\n")
}

func plain(w *record, text string) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err := io.WriteString(w, text)
	return w.sent(err)
}

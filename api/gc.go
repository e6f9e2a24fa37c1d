package api

import "net/http"

// collection is the body of a POST that collects.
type collection struct {
	DryRun bool `json:"dry_run"` // only tell what would go
}

// collect evicts what the limits of the store ask for, now.
func (s *Server) collect(w *record, r *http.Request) error {
	var asked collection
	if err := readRequest(w, r, &asked); err != nil {
		return err
	}
	told, err := s.registry.Collect(r.Context(), asked.DryRun)
	if err != nil {
		return err
	}
	return writeJSON(w, r, told)
}

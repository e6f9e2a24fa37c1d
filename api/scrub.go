package api

import (
	"net/http"

	"github.com/imagecache/imagecache/registry"
)

// scrub proves stored blobs again, those whose proof is old or all of them.
func (s *Server) scrub(w *record, r *http.Request) error {
	var asked struct {
		All bool `json:"all"`
	}
	if err := readRequest(w, r, &asked); err != nil {
		return err
	}
	return stream(w, func(progress func(registry.Progress)) (registry.Scrubbed, error) {
		return s.registry.Scrub(r.Context(), asked.All, progress)
	}, func(done registry.Scrubbed) any {
		return struct {
			Scrub registry.Scrubbed `json:"scrub"`
		}{done}
	})
}

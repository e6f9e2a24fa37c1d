package api

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"

	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// referrers lists what refers to a manifest, as an index (distribution-spec,
// "Listing Referrers"). All of it comes as one page. artifactType filters, and
// the answer says that it did.
func (s *Server) referrers(w *record, r *http.Request, req request) error {
	list, answer, err := s.registry.Referrers(r.Context(), req.repository, req.digest)
	if err != nil {
		return err
	}
	w.answered(answer)
	if wanted := r.URL.Query().Get("artifactType"); wanted != "" {
		list = slices.DeleteFunc(slices.Clone(list), func(d specs.Descriptor) bool { return d.ArtifactType != wanted })
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	index := specs.Index{MediaType: specs.MediaTypeImageIndex, Manifests: append([]specs.Descriptor{}, list...)}
	index.SchemaVersion = 2
	body, err := json.Marshal(index)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", specs.MediaTypeImageIndex)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	_, err = w.Write(body)
	return w.sent(err)
}

package api

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/registry"
)

// referrers lists what refers to a manifest, as an index (distribution-spec,
// "Listing Referrers"). artifactType filters, and the answer says that it did.
// What is too much for one answer comes by pages; last is behind what comes next.
func (s *Server) referrers(w *record, r *http.Request, req request) error {
	query := r.URL.Query()
	q := registry.ReferrersQuery{ArtifactType: query.Get("artifactType")}
	if last := query.Get("last"); last != "" {
		var err error
		if q.After, err = registry.ParseDigest(last); err != nil {
			return err
		}
	}
	page, answer, err := s.registry.Referrers(r.Context(), req.repository, req.digest, q)
	if err != nil {
		return err
	}
	w.answered(answer)
	if q.ArtifactType != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	if page.Next != "" {
		next := url.Values{"last": {page.Next.String()}}
		if q.ArtifactType != "" {
			next.Set("artifactType", q.ArtifactType)
		}
		w.Header().Set("Link", linkNext("/v2/"+req.name+"/referrers/"+req.digest.String(), w.ns, next))
	}
	index := specs.Index{MediaType: specs.MediaTypeImageIndex, Manifests: page.Manifests}
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

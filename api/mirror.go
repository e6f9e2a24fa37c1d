package api

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/imagecache/imagecache/api/access"

	"github.com/imagecache/imagecache/registry"
)

// pull answers everything below /v2/.
func (s *Server) pull(w *record, r *http.Request) error {
	// Docker looks for it on every answer, errors included.
	w.Header()["Docker-Distribution-Api-Version"] = apiVersion
	if r.Method == http.MethodHead { // ranges are defined for GET only: RFC 9110, section 14.2
		r.Header.Del("Range")
	}
	r, err := s.identify(w, r)
	if err != nil {
		return err
	}
	done, err := s.gate.Enter(r, w.caller)
	if err != nil {
		return refusedBy(err)
	}
	defer done()
	return s.ask(w, r)
}

// ask reads what a caller who was let in wants, and answers if it may.
func (s *Server) ask(w *record, r *http.Request) error {
	if twoNamespaces(r.URL.RawQuery) {
		return errTwoNamespaces
	}
	req, err := parse(r.URL.EscapedPath(), w.ns)
	w.kind = req.kind
	if err != nil {
		if r.Method != http.MethodPut {
			err = absentTag(err)
		}
		return err
	}
	if req.repository.Path != "" {
		w.scoped()
		verb := verbOf(r, req.kind)
		if err := s.permit(w, r, verb, req.repository.String()); err != nil {
			return err
		}
		r = r.WithContext(s.rightful(r.Context(), w.caller, verb, req.repository))
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return s.closed(w, s.write(w, r, req))
	}
	return s.closed(w, s.read(w, r, req))
}

// scoped tells that the request was read by its ns parameter
// (distribution-spec, "Registry Proxying").
func (w *record) scoped() {
	if w.ns != "" {
		w.Header()["Oci-Namespace"] = []string{w.ns} // as Set would spell it
	}
}

// read answers what changes nothing.
func (s *Server) read(w *record, r *http.Request, req request) error {
	switch req.kind {
	case kindBase:
		return s.base(w, r)
	case kindManifest:
		return s.manifest(w, r, req)
	case kindBlob:
		return s.blob(w, r, req)
	case kindTags:
		return s.tags(w, r, req)
	case kindReferrers:
		return s.referrers(w, r, req)
	case kindUpload:
		return s.uploadStatus(w, r, req)
	case kindCatalog:
		return s.catalog(w, r)
	}
	return errNoEndpoint
}

// apiVersion is shared by all answers; net/http does not change it.
var apiVersion = []string{"registry/2.0"}

// base tells that this is a registry, and one that answers without
// authentication. Where an upstream is not open, or is pushed to through us, the
// challenge is there all the same, as RFC 9110, section 11.6.1, allows: clients
// that read it here send their credential with what they ask next (skopeo does).
// To answer 401 would shut out clients that have none.
func (s *Server) base(w *record, r *http.Request) error {
	if err := s.signedIn(w, r); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", "2")
	if s.proven {
		h.Set("WWW-Authenticate", signIn(""))
	}
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	_, err := io.WriteString(w, "{}")
	return w.sent(err)
}

// manifest serves by tag or digest. Accept is not negotiated: the bytes that
// were pushed are the only form there is, and the digest is theirs.
func (s *Server) manifest(w *record, r *http.Request, req request) error {
	ctx := r.Context()
	if r.Method == http.MethodHead {
		ctx = registry.OnlyLooking(ctx)
	}
	m, answer, err := s.registry.Manifest(ctx, req.manifest)
	if err != nil {
		return err
	}
	w.answered(answer)
	w.identify(m.Descriptor.MediaType, m.Descriptor.Digest)
	s.metrics.got(kindManifest, w.outcome)
	if conditional(r) {
		return serveContent(w, r, newMemory(m.Content))
	}
	w.put("Content-Length", strconv.Itoa(len(m.Content)))
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	_, err = w.Write(m.Content)
	return w.sent(err)
}

// tags lists the tags of a repository, by pages when n is given
// (distribution-spec, "Listing Tags").
func (s *Server) tags(w *record, r *http.Request, req request) error {
	query := r.URL.Query()
	n, err := pageSize(query)
	if err != nil {
		return err
	}
	all, answer, err := s.registry.Tags(r.Context(), req.repository)
	if err != nil {
		return err
	}
	w.answered(answer)
	w.Header().Del("Age") // of a list put together from what is known of each tag there is none
	page, more := cutPage(all, n, query.Get("last"))
	if more {
		w.Header().Set("Link", nextPage("/v2/"+req.name+"/tags/list", w.ns, page, n))
	}
	return writeJSON(w, r, struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{req.name, page})
}

// catalog lists the repositories to which something was pushed, and from which
// the caller may pull, by pages when n is given. What is cached of upstreams is
// not in it: that is no list of what they have.
func (s *Server) catalog(w *record, r *http.Request) error {
	if err := s.signedIn(w, r); err != nil {
		return err
	}
	query := r.URL.Query()
	n, err := pageSize(query)
	if err != nil {
		return err
	}
	all, err := s.registry.Catalog(r.Context())
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(name string) bool { return !s.gate.Allow(w.caller, access.Pull, name) })
	page, more := cutPage(all, n, query.Get("last"))
	if more {
		w.Header().Set("Link", nextPage("/v2/_catalog", w.ns, page, n))
	}
	return writeJSON(w, r, map[string][]string{"repositories": page})
}

// pageSize is the n parameter, -1 without one.
func pageSize(query url.Values) (int, error) {
	if !query.Has("n") {
		return -1, nil
	}
	n, err := strconv.Atoi(query.Get("n"))
	if err != nil || n < 0 {
		return 0, errPage()
	}
	return n, nil
}

// cutPage is what follows last, at most n of it, and whether more follows. A
// last that is not a tag stands for the place where it would be. The page is
// never nil, which would be null in JSON.
func cutPage(all []string, n int, last string) (page []string, more bool) {
	if last != "" {
		from := slices.Index(all, last) + 1
		if from == 0 {
			from = slices.IndexFunc(all, func(tag string) bool { return tag > last })
		}
		if from < 0 {
			from = len(all)
		}
		all = all[from:]
	}
	if n < 0 || n >= len(all) {
		return append([]string{}, all...), false
	}
	return append([]string{}, all[:n]...), n > 0
}

// nextPage is the Link to what follows a page (RFC 8288). It keeps ns, without
// which the next request would ask another registry.
func nextPage(path, ns string, page []string, n int) string {
	return linkNext(path, ns, url.Values{"n": {strconv.Itoa(n)}, "last": {page[len(page)-1]}})
}

func linkNext(path, ns string, query url.Values) string {
	if ns != "" {
		query.Set("ns", ns)
	}
	target := url.URL{Path: path, RawQuery: query.Encode()}
	return "<" + target.String() + `>; rel="next"`
}

// writeJSON answers with v, its length known.
func writeJSON(w *record, r *http.Request, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	body = append(body, '\n')
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	_, err = w.Write(body)
	return w.sent(err)
}

package api

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/imagecache/imagecache/registry"
)

const (
	// maxManifest is the largest manifest that is taken, in bytes: what the
	// specification asks registries to take at least.
	maxManifest = 4 << 20
	// maxTags is how many tags one push may set besides the reference: drafts of
	// the specification ask for ten at least.
	maxTags = 100
	// readTimeout is how long a client may be silent while it sends a body.
	readTimeout = time.Minute
)

// write answers what changes a repository.
func (s *Server) write(w *record, r *http.Request, req request) error {
	switch {
	case req.repository.Path == "":
		return errMethod(readMethods)
	case !s.registry.Takes(req.repository.Registry):
		return errNoHome(req.repository.Registry)
	case !s.push && !s.gate.Ruled() && !s.registry.Through(req.repository.Registry):
		return errPushClosed
	}
	r.Body = &patientBody{ReadCloser: r.Body, renew: http.NewResponseController(w.ResponseWriter).SetReadDeadline}
	switch req.kind {
	case kindManifest:
		return s.writeManifest(w, r, req)
	case kindBlob:
		if r.Method == http.MethodDelete {
			return s.removed(w, s.registry.DeleteBlob(r.Context(), req.repository, req.digest))
		}
		return errMethod("GET, HEAD, DELETE")
	case kindUpload:
		return s.writeUpload(w, r, req)
	}
	return errMethod(readMethods)
}

func (s *Server) writeManifest(w *record, r *http.Request, req request) error {
	switch r.Method {
	case http.MethodPut:
		return s.putManifest(w, r, req)
	case http.MethodDelete:
		if d := req.manifest.Digest; d != "" {
			return s.removed(w, s.registry.DeleteManifest(r.Context(), req.repository, d))
		}
		return s.removed(w, s.registry.DeleteTag(r.Context(), req.manifest))
	}
	return errMethod("GET, HEAD, PUT, DELETE")
}

func (s *Server) removed(w *record, err error) error {
	if err == nil {
		w.WriteHeader(http.StatusAccepted)
	}
	return err
}

// putManifest takes a manifest (distribution-spec, "Pushing Manifests").
func (s *Server) putManifest(w *record, r *http.Request, req request) error {
	content, err := io.ReadAll(io.LimitReader(r.Body, maxManifest+1))
	if err != nil {
		return errBrokenBody(err)
	}
	if len(content) > maxManifest {
		return errManifestTooLarge
	}
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil { // none, of which the registry makes the best, or what it will refuse
		mediaType = r.Header.Get("Content-Type")
	}
	tags, err := furtherTags(r, req.repository)
	if err != nil {
		return err
	}
	pushed, err := s.registry.PutManifest(r.Context(), req.manifest, mediaType, content, tags...)
	if err != nil {
		return asPushed(err)
	}
	h := w.Header()
	for _, ref := range tags {
		h.Add("OCI-Tag", ref.Tag)
	}
	h.Set("Location", w.below(req.name, "manifests/"+pushed.Digest.String()))
	h.Set("Docker-Content-Digest", pushed.Digest.String())
	if pushed.Subject != "" {
		h.Set("OCI-Subject", pushed.Subject.String())
	}
	for _, warning := range pushed.Warnings {
		h.Add("Warning", "299 - "+strconv.QuoteToASCII(warning))
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

// furtherTags are those that a manifest is to get besides its reference, each a
// tag parameter (distribution-spec after 1.1, "Pushing Manifests").
func furtherTags(r *http.Request, in registry.Repository) ([]registry.Reference, error) {
	names := r.URL.Query()["tag"]
	if len(names) > maxTags {
		return nil, errManyTags
	}
	tags := make([]registry.Reference, len(names))
	for i, name := range names {
		var err error
		if tags[i], err = in.Reference(name); err != nil {
			return nil, err
		}
		if tags[i].Tag == "" {
			return nil, &registry.Error{Code: registry.CodeTagInvalid, Reference: strconv.Quote(name), Message: "not a tag"}
		}
	}
	return tags, nil
}

// below is the path of something in the repository that the client named, with
// its ns, without which it would be another.
func (w *record) below(name, rest string) string {
	target := url.URL{Path: "/v2/" + name + "/" + rest}
	if w.ns != "" {
		target.RawQuery = url.Values{"ns": {w.ns}}.Encode()
	}
	return target.String()
}

// patientBody gives the client another readTimeout before each read, and when all
// was read no deadline any more: a connection whose deadline passes while we work
// on what came would be taken for one whose client has left.
type patientBody struct {
	io.ReadCloser
	renew func(time.Time) error
}

func (b *patientBody) Read(p []byte) (int, error) {
	b.renew(time.Now().Add(readTimeout)) // a connection without deadlines (a test's) goes without
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == io.EOF:
		b.renew(time.Time{})
	case err != nil:
		err = errBrokenBody(err)
	}
	return n, err
}

// brokenOr finds the refusal in an error of a body that broke off.
func brokenOr(err error) error {
	var refused *refusal
	if errors.As(err, &refused) {
		return refused
	}
	return err
}

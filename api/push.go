package api

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/api/access"
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
	case req.repository.Path == "" || !s.registry.Takes(req.repository.Registry):
		return errMethod(readMethods)
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
	if err != nil {
		mediaType = "" // then it is what it says of itself
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

// writeUpload is everything that is done to uploads of blobs
// (distribution-spec, "Pushing a blob monolithically" and "in chunks").
func (s *Server) writeUpload(w *record, r *http.Request, req request) error {
	switch {
	case r.Method == http.MethodPost && req.upload == "":
		return s.beginUpload(w, r, req)
	case req.upload == "":
		return errMethod("POST")
	case r.Method == http.MethodPatch:
		return s.appendUpload(w, r, req)
	case r.Method == http.MethodPut:
		return s.finishUpload(w, r, req)
	case r.Method == http.MethodDelete:
		err := s.registry.CancelUpload(r.Context(), req.repository, req.upload)
		if err == nil {
			w.WriteHeader(http.StatusNoContent)
		}
		return err
	}
	return errMethod("GET, HEAD, PATCH, PUT, DELETE")
}

// beginUpload mounts a blob of another repository, takes one that comes with
// the request, or begins an upload.
func (s *Server) beginUpload(w *record, r *http.Request, req request) error {
	query := r.URL.Query()
	if mount := query.Get("mount"); mount != "" {
		done, err := s.mountBlob(w, r, req, mount, query.Get("from"))
		if done || err != nil {
			return err
		}
	}
	whole := query.Get("digest")
	var d digest.Digest
	if whole != "" {
		var err error
		if d, err = registry.ParseDigest(whole); err != nil {
			return err
		}
	}
	u, err := s.registry.StartUpload(r.Context(), req.repository)
	if err != nil {
		return err
	}
	if whole == "" {
		return w.uploading(req, u, http.StatusAccepted)
	}
	if err := s.registry.FinishUpload(r.Context(), req.repository, u.ID, d, 0, r.Body); err != nil {
		return errors.Join(brokenOr(err), s.registry.CancelUpload(r.Context(), req.repository, u.ID))
	}
	return w.hasBlob(req, d)
}

// mountBlob tries to make a blob of another repository one of this: of the one
// that is named, or of any home's that the caller may pull from.
func (s *Server) mountBlob(w *record, r *http.Request, req request, mount, from string) (done bool, err error) {
	d, err := registry.ParseDigest(mount)
	if err != nil {
		return false, err
	}
	sources, err := s.mountSources(r, w.ns, d, from)
	if err != nil {
		return false, err
	}
	for _, source := range sources {
		if !s.gate.Allow(w.caller, access.Pull, source.String()) {
			continue
		}
		mounted, err := s.registry.MountBlob(r.Context(), req.repository, d, source)
		if err != nil {
			return false, err
		}
		if mounted {
			return true, w.hasBlob(req, d)
		}
	}
	return false, nil
}

func (s *Server) mountSources(r *http.Request, ns string, d digest.Digest, from string) ([]registry.Repository, error) {
	if from == "" {
		return s.registry.Holders(r.Context(), d)
	}
	source, err := registry.NewRepository(splitHost(from, ns))
	if err != nil {
		return nil, nil // a name that cannot be holds nothing
	}
	return []registry.Repository{source}, nil
}

func (s *Server) appendUpload(w *record, r *http.Request, req request) error {
	from, length, err := contentRange(r)
	if err != nil {
		return err
	}
	body := &measured{Reader: r.Body}
	u, err := s.registry.AppendUpload(r.Context(), req.repository, req.upload, from, body)
	if err != nil {
		return brokenOr(err)
	}
	if length >= 0 && body.n != length {
		return errBrokenBody(errors.New("the body is not as long as its Content-Range says"))
	}
	return w.uploading(req, u, http.StatusAccepted)
}

func (s *Server) finishUpload(w *record, r *http.Request, req request) error {
	d, err := registry.ParseDigest(r.URL.Query().Get("digest"))
	if err != nil {
		return err
	}
	from, _, err := contentRange(r)
	if err != nil {
		return err
	}
	if err := s.registry.FinishUpload(r.Context(), req.repository, req.upload, d, from, r.Body); err != nil {
		return brokenOr(err)
	}
	return w.hasBlob(req, d)
}

// uploadStatus tells a client how far it has come.
func (s *Server) uploadStatus(w *record, r *http.Request, req request) error {
	if req.upload == "" {
		return errMethod("POST")
	}
	u, err := s.registry.UploadStatus(r.Context(), req.repository, req.upload)
	if err != nil {
		return err
	}
	return w.uploading(req, u, http.StatusNoContent)
}

// uploading tells where the next piece goes. The range is of the bytes that
// came, both ends counted; there is no way to write an empty one, and 0-0 is
// what docker's registry says then.
func (w *record) uploading(req request, u registry.Upload, status int) error {
	h := w.Header()
	h.Set("Location", w.below(req.name, "blobs/uploads/"+u.ID))
	h.Set("Range", "0-"+strconv.FormatInt(max(u.Offset-1, 0), 10))
	h.Set("Docker-Upload-UUID", u.ID)
	w.WriteHeader(status)
	return nil
}

// hasBlob tells that a blob is in the repository now.
func (w *record) hasBlob(req request, d digest.Digest) error {
	h := w.Header()
	h.Set("Location", w.below(req.name, "blobs/"+d.String()))
	h.Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusCreated)
	return nil
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

// contentRange is where a piece begins and how long it is, -1 where the client
// does not say. The form is the specification's, "<first>-<last>", without a unit.
func contentRange(r *http.Request) (from, length int64, err error) {
	value := r.Header.Get("Content-Range")
	if value == "" {
		return -1, -1, nil
	}
	first, last, ok := strings.Cut(strings.TrimPrefix(value, "bytes "), "-")
	last, _, _ = strings.Cut(last, "/")
	from, err1 := strconv.ParseInt(first, 10, 64)
	to, err2 := strconv.ParseInt(last, 10, 64)
	if !ok || err1 != nil || err2 != nil || from < 0 || to < from-1 {
		return 0, 0, errContentRange
	}
	return from, to - from + 1, nil
}

// measured counts what is read.
type measured struct {
	io.Reader
	n int64
}

func (m *measured) Read(p []byte) (int, error) {
	n, err := m.Reader.Read(p)
	m.n += int64(n)
	return n, err
}

// patientBody gives the client another readTimeout before each read.
type patientBody struct {
	io.ReadCloser
	renew func(time.Time) error
}

func (b *patientBody) Read(p []byte) (int, error) {
	b.renew(time.Now().Add(readTimeout)) // a connection without deadlines (a test's) goes without
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
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

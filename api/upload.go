package api

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/api/access"
	"github.com/imagecache/imagecache/registry"
)

// writeUpload is everything that is done to uploads of blobs
// (distribution-spec, "Pushing a blob monolithically" and "in chunks").
func (s *Server) writeUpload(w *record, r *http.Request, req request) error {
	switch {
	case r.Method == http.MethodPost && req.upload == "":
		return s.beginUpload(w, r, req)
	case req.upload == "":
		return errMethod("POST")
	case !s.registry.BegunBy(r.Context(), req.repository, req.upload, w.caller.Name):
		return registry.NoUpload(req.repository, req.upload)
	case r.Method == http.MethodPatch:
		return s.standsAt(w, r, req, s.appendUpload(w, r, req))
	case r.Method == http.MethodPut:
		return s.standsAt(w, r, req, s.finishUpload(w, r, req))
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
	if a := query.Get("digest-algorithm"); a != "" && !slices.Contains(algorithms, digest.Algorithm(a)) {
		return &registry.Error{Code: registry.CodeDigestInvalid, Reference: strconv.QuoteToASCII(a), Message: "not an algorithm for digests here: sha256 or sha512"}
	}
	d, err := wholeBlob(r, query.Get("digest"))
	if err != nil {
		return err
	}
	u, err := s.registry.StartUpload(r.Context(), req.repository, w.caller.Name)
	if err != nil {
		return err
	}
	if d == "" {
		return w.uploading(req, u, http.StatusAccepted)
	}
	if err := s.registry.FinishUpload(r.Context(), req.repository, u.ID, d, registry.Piece{From: 0, Length: r.ContentLength, Body: r.Body}); err != nil {
		if gone := s.registry.CancelUpload(r.Context(), req.repository, u.ID); gone != nil { // as it is where the digest was wrong
			s.log.Debug("upload not cancelled", "repository", req.repository.String(), "error", gone)
		}
		return brokenOr(err)
	}
	return w.hasBlob(req, d)
}

// algorithms are those that a digest may be of.
var algorithms = []digest.Algorithm{digest.SHA256, digest.SHA512}

// wholeBlob is the digest of the blob that comes with a POST, "" where none does:
// a client that names a digest and sends nothing means to send it later, unless it
// is that of nothing.
func wholeBlob(r *http.Request, named string) (digest.Digest, error) {
	if named == "" {
		return "", nil
	}
	d, err := registry.ParseDigest(named)
	if err == nil && r.ContentLength == 0 && d != d.Algorithm().FromBytes(nil) {
		return "", nil
	}
	return d, err
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
		mounted, err := s.registry.MountBlob(s.rightful(r.Context(), w.caller, access.Pull, source), req.repository, d, source)
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
	p, err := piece(r)
	if err != nil {
		return err
	}
	u, err := s.registry.AppendUpload(r.Context(), req.repository, req.upload, p)
	if err != nil {
		return brokenOr(err)
	}
	return w.uploading(req, u, http.StatusAccepted)
}

func (s *Server) finishUpload(w *record, r *http.Request, req request) error {
	d, err := registry.ParseDigest(r.URL.Query().Get("digest"))
	if err != nil {
		return err
	}
	p, err := piece(r)
	if err != nil {
		return err
	}
	if err := s.registry.FinishUpload(r.Context(), req.repository, req.upload, d, p); err != nil {
		return brokenOr(err)
	}
	return w.hasBlob(req, d)
}

// standsAt tells with an error how far the upload has come, so that the client
// can go on without asking. Of one that is over there is nothing to tell.
func (s *Server) standsAt(w *record, r *http.Request, req request, err error) error {
	if err == nil {
		return nil
	}
	if u, gone := s.registry.UploadStatus(r.Context(), req.repository, req.upload); gone == nil {
		w.progress(req, u)
	}
	return err
}

// uploadStatus tells a client how far it has come.
func (s *Server) uploadStatus(w *record, r *http.Request, req request) error {
	if req.upload == "" {
		return errMethod("POST")
	}
	if !s.registry.BegunBy(r.Context(), req.repository, req.upload, w.caller.Name) {
		return registry.NoUpload(req.repository, req.upload)
	}
	u, err := s.registry.UploadStatus(r.Context(), req.repository, req.upload)
	if err != nil {
		return err
	}
	return w.uploading(req, u, http.StatusNoContent)
}

// uploading tells where the next piece goes.
func (w *record) uploading(req request, u registry.Upload, status int) error {
	w.progress(req, u)
	w.WriteHeader(status)
	return nil
}

// progress sets the fields that tell how far an upload has come. The range is of
// the bytes that came, both ends counted; there is no way to write an empty one,
// and 0-0 is what docker's registry says then.
func (w *record) progress(req request, u registry.Upload) {
	h := w.Header()
	h.Set("Location", w.below(req.name, "blobs/uploads/"+u.ID))
	h.Set("Range", "0-"+strconv.FormatInt(max(u.Offset-1, 0), 10))
	h.Set("Docker-Upload-UUID", u.ID)
}

// hasBlob tells that a blob is in the repository now.
func (w *record) hasBlob(req request, d digest.Digest) error {
	h := w.Header()
	h.Set("Location", w.below(req.name, "blobs/"+d.String()))
	h.Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusCreated)
	return nil
}

// piece is what a request sends of an upload. Where Content-Range and
// Content-Length contradict each other nothing is read.
func piece(r *http.Request) (registry.Piece, error) {
	from, length, err := contentRange(r)
	if err != nil {
		return registry.Piece{}, err
	}
	if length >= 0 && r.ContentLength >= 0 && r.ContentLength != length {
		return registry.Piece{}, errPieceLength
	}
	return registry.Piece{From: from, Length: length, Body: r.Body}, nil
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
	if !ok || err1 != nil || err2 != nil || from < 0 || to < from-1 || to == math.MaxInt64 {
		return 0, 0, errContentRange
	}
	return from, to - from + 1, nil
}

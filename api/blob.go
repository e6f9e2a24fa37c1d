package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/imagecache/imagecache/layerstore"
)

// blobType is what blobs are served as. Their media type is the manifest's to
// tell; the registry itself does not know it.
const blobType = "application/octet-stream"

// blob serves a blob, sealed or on its way.
func (s *Server) blob(w *record, r *http.Request, req request) error {
	if r.Method == http.MethodHead {
		return s.blobHead(w, r, req)
	}
	err := s.blobOnce(w, r, req)
	// What rotted is fetched anew for who asks next: the same client, when it
	// was sent nothing yet.
	if errors.As(err, new(*layerstore.RotError)) && w.status == 0 {
		w.Header().Del("Content-Range")
		err = s.blobOnce(w, r, req)
	}
	return err
}

func (s *Server) blobOnce(w *record, r *http.Request, req request) error {
	ctx, cancel := context.WithCancel(r.Context())
	blob, answer, err := s.registry.Blob(ctx, req.repository, req.digest)
	if err != nil {
		cancel()
		return err
	}
	c := newBlob(blob)
	defer func() {
		cancel() // first, so that a read that waits lets go of the content
		c.end()
		blob.Close()
	}()
	w.answered(answer)
	s.metrics.got(kindBlob, w.outcome)
	if err := emptyProven(blob); err != nil {
		return err
	}
	w.identify(blobType, req.digest)
	if !blob.Proven() && strings.Contains(r.Header.Get("Range"), ",") {
		// A far range may be sent before the blob is proven, because it does
		// not complete it; several ranges in one answer could, and each would
		// have to be held back by its last byte. A server may ignore Range
		// (RFC 9110, section 14.2).
		r.Header.Del("Range")
	}
	err = serveContent(w, r, c)
	if why := blob.Bypassed(); why != nil {
		w.bypassed(why) // perhaps only after the header said otherwise
	}
	return err
}

// emptyProven waits until a blob said to be empty is proven to be: its answer
// has no byte that could be held back until then.
func emptyProven(blob *layerstore.Blob) error {
	if blob.Size() > 0 {
		return nil
	}
	if _, err := blob.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// blobHead tells of a blob without starting a transfer.
func (s *Server) blobHead(w *record, r *http.Request, req request) error {
	size, answer, err := s.registry.BlobInfo(r.Context(), req.repository, req.digest)
	if err != nil {
		return err
	}
	w.answered(answer)
	w.identify(blobType, req.digest)
	return serveContent(w, r, &content{reader: sized(size)})
}

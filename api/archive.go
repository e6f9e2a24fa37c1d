package api

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/imagecache/imagecache/registry"
)

// Importer takes archives of images; *registry.Registry does.
type Importer interface {
	Import(ctx context.Context, from io.Reader, o registry.ImportOptions) (registry.Imported, error)
}

const (
	// maxExport bounds the body of a request for an export: a list of what the
	// other side has, as long as a match may be.
	maxExport = 2 * maxMatch
	// importIdle is how long who sends an archive may be silent: what writes it,
	// docker save say, may have to begin with a large layer.
	importIdle = 5 * time.Minute

	mediaTypeTar = "application/x-tar"
)

// archiveAdmin are the endpoints of Archives, by path and method.
func (s *Server) archiveAdmin() map[string]map[string]handler {
	return map[string]map[string]handler{
		"/api/v1/match":  {http.MethodPost: s.matchBlobs},
		"/api/v1/export": {http.MethodPost: s.exportImages},
		"/api/v1/import": {http.MethodPost: s.importImages},
	}
}

// exportImages sends a tar of an OCI layout, or with dry_run a list of what it
// would hold. An export that fails on the way is cut short of its Content-Length.
func (s *Server) exportImages(w *record, r *http.Request) error {
	var asked struct {
		References []string `json:"references"`
		Platforms  []string `json:"platforms"`
		Have       []string `json:"have"` // digests
		// NoReferrers leaves out signatures, SBOMs and the like.
		NoReferrers bool `json:"no_referrers"`
		DryRun      bool `json:"dry_run"`
	}
	if err := readLong(w, r, maxExport, &asked); err != nil {
		return err
	}
	refs, err := parseAll(asked.References)
	if err != nil {
		return err
	}
	if len(refs) == 0 {
		return errRequest("references is empty")
	}
	for _, ref := range refs {
		w.concerns(ref.String())
	}
	have, err := digestsOf(asked.Have)
	if err != nil {
		return err
	}
	export, err := s.registry.Export(r.Context(), registry.ExportOptions{
		References: refs, Platforms: asked.Platforms, Have: have, NoReferrers: asked.NoReferrers})
	if err != nil {
		return err
	}
	defer export.Close()
	if asked.DryRun {
		return writeJSON(w, r, export.Blobs())
	}
	return s.sendExport(w, r, export)
}

func (s *Server) sendExport(w *record, r *http.Request, export *registry.Export) error {
	size, err := export.Size()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", mediaTypeTar)
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	out := &patientWriter{record: w}
	err = export.Send(r.Context(), out)
	if out.failed != nil {
		w.failed = true // what left is not all that was asked for
		return w.sent(out.failed)
	}
	return err
}

// patientWriter gives the client another writeTimeout for each piece.
type patientWriter struct {
	*record
	failed error // the client left
}

func (p *patientWriter) Write(b []byte) (int, error) {
	p.renew()
	n, err := p.record.Write(b)
	if err != nil {
		p.failed = err
	}
	return n, err
}

// importImages takes a tar as the request's body, and answers when all that it
// names has its name.
func (s *Server) importImages(w *record, r *http.Request) error {
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != mediaTypeTar {
		return errRequest("the request body must be " + mediaTypeTar)
	}
	query := r.URL.Query()
	o := registry.ImportOptions{Pin: query.Get("pin") == "true"}
	if name := query.Get("name"); name != "" {
		var err error
		if o.Name, err = registry.ParseReference(name); err != nil {
			return err
		}
	}
	body := &archiveBody{ReadCloser: r.Body, until: http.NewResponseController(w.ResponseWriter).SetReadDeadline}
	done, err := s.registry.Import(r.Context(), body, o)
	for _, image := range done.Images {
		w.concerns(image.Reference)
	}
	switch {
	case err != nil && body.stalled:
		return errStalled(importIdle, "nothing was imported")
	case err != nil:
		return brokenOr(err)
	}
	return writeJSON(w, r, done)
}

// archiveBody gives who sends an archive importIdle before each read, and none
// when all was read: a connection whose deadline passes while we work on what came
// would be taken for one whose client has left.
type archiveBody struct {
	io.ReadCloser
	until   func(time.Time) error // a connection without deadlines (a test's) goes without
	stalled bool
}

func (b *archiveBody) Read(p []byte) (int, error) {
	_ = b.until(time.Now().Add(importIdle))
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == io.EOF:
		_ = b.until(time.Time{})
	case err != nil:
		b.stalled = errors.Is(err, os.ErrDeadlineExceeded)
		err = errBrokenBody(err)
	}
	return n, err
}

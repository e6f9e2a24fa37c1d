package api

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/imagecache/imagecache/registry"
)

// Admin serves /api/v1/, metrics and health: the address of whoever may
// administrate. It authenticates nobody; the socket's permissions do. A web
// page in a browser of this machine is refused, because it could reach a
// loopback address as well as its user can.
func (s *Server) Admin() http.Handler {
	return s.ownNames(s.administration(unguarded, unguarded))
}

// guard lets a handler answer those who may ask it.
type guard func(handler) handler

func unguarded(h handler) handler { return h }

// administration serves every endpoint behind a guard, and the metrics behind
// another.
func (s *Server) administration(administrates, scrapes guard) http.Handler {
	router := s.router(scrapes)
	allowed := s.adminRoutes()
	for path, byMethod := range allowed {
		for method, h := range byMethod {
			router.Method(method, path, s.handle(kindAdmin, administrates(asDefined(h))))
		}
	}
	router.MethodNotAllowed(s.handle(kindAdmin, func(_ *record, r *http.Request) error {
		methods := slices.Sorted(maps.Keys(allowed[r.URL.Path]))
		if len(methods) == 0 {
			return errMethod(readMethods)
		}
		return errMethod(strings.Join(methods, ", "))
	}))
	return s.ownPages(kindAdmin, router)
}

// adminRoutes are all endpoints of the administration, by path and method; the
// OpenAPI document describes the same ones.
func (s *Server) adminRoutes() map[string]map[string]handler {
	all := map[string]map[string]handler{
		"/api/v1/status":         {http.MethodGet: s.status},
		"/api/v1/df":             {http.MethodGet: s.diskUsage},
		"/api/v1/images":         {http.MethodGet: s.images, http.MethodDelete: s.removeImage},
		"/api/v1/images/inspect": {http.MethodGet: s.inspect},
		"/api/v1/pins":           {http.MethodGet: s.pins, http.MethodPost: s.pin, http.MethodDelete: s.unpin},
		"/api/v1/pull":           {http.MethodPost: s.pullImage},
		"/api/v1/scrub":          {http.MethodPost: s.scrub},
		"/api/v1/gc":             {http.MethodPost: s.collect},
	}
	for _, more := range []map[string]map[string]handler{s.pinsAdmin(), s.rootfsAdmin(), s.archiveAdmin(), s.accessAdmin(), s.openAPIAdmin()} {
		maps.Copy(all, more)
	}
	return all
}

func (s *Server) status(w *record, r *http.Request) error {
	status := s.registry.Status(r.Context())
	status.Version, status.Listen, status.BytesServed = s.version, s.listen, s.metrics.served.Load()
	if s.lockfile != nil {
		status.Lockfile = s.lockfile()
	}
	full := fullStatus{Status: status}
	if s.snapshotter != nil {
		full.Snapshotter = s.snapshotter()
	}
	return writeJSON(w, r, full)
}

func (s *Server) diskUsage(w *record, r *http.Request) error {
	usage, err := s.registry.DiskUsage(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, r, usage)
}

func (s *Server) images(w *record, r *http.Request) error {
	images, err := s.registry.Images(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, r, map[string][]registry.Image{"images": append([]registry.Image{}, images...)})
}

func (s *Server) inspect(w *record, r *http.Request) error {
	ref, err := queryReference(r)
	if err != nil {
		return err
	}
	inspection, err := s.registry.Inspect(r.Context(), ref)
	if err != nil {
		return err
	}
	return writeJSON(w, r, inspection)
}

func (s *Server) removeImage(w *record, r *http.Request) error {
	ref, err := queryReference(r)
	if err != nil {
		return err
	}
	removed, err := s.registry.Remove(r.Context(), ref)
	if err != nil {
		return err
	}
	return writeJSON(w, r, removed)
}

func (s *Server) pins(w *record, r *http.Request) error {
	pins, err := s.listPins(r)
	if err != nil {
		return err
	}
	return writeJSON(w, r, map[string][]registry.Pin{"pins": append([]registry.Pin{}, pins...)})
}

func (s *Server) unpin(w *record, r *http.Request) error {
	ref, err := queryReference(r)
	if err != nil {
		return err
	}
	if err := s.registry.Unpin(r.Context(), ref); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) pin(w *record, r *http.Request) error {
	return streamWork(w, r, func(asked wish) (work[registry.Pin], error) {
		if asked.Update {
			return s.registry.Update, nil
		}
		return s.registry.Pin, nil
	}, lastPin)
}

func (s *Server) pullImage(w *record, r *http.Request) error {
	return streamWork(w, r, func(asked wish) (work[registry.Image], error) {
		if asked.Update {
			return nil, errRequest("only a pin can be updated")
		}
		return s.registry.Pull, nil
	}, func(image registry.Image) any {
		return struct {
			Image registry.Image `json:"image"`
		}{image}
	})
}

// queryReference is the ref parameter, as the user typed it.
func queryReference(r *http.Request) (registry.Reference, error) {
	ref := r.URL.Query().Get("ref")
	if ref == "" {
		return registry.Reference{}, errRequest("the parameter ref is missing")
	}
	return registry.ParseReference(ref)
}

// wish is the body of a POST: fetch this, or pin it.
type wish struct {
	Reference string   `json:"reference"`
	Platforms []string `json:"platforms"` // "os/arch[/variant]", or "all" alone; none: the configured ones
	Update    bool     `json:"update"`    // of a pin: move it to what upstream's tag means now
}

// maxRequest is the longest request body in bytes; a wish has some hundred.
const maxRequest = 1 << 20

func readWish(w http.ResponseWriter, r *http.Request) (wish, registry.Reference, error) {
	var asked wish
	if err := readRequest(w, r, &asked); err != nil {
		return asked, registry.Reference{}, err
	}
	ref, err := registry.ParseReference(asked.Reference)
	return asked, ref, err
}

// readRequest reads one JSON value and refuses what it does not know, so that
// a misspelt field is not silently without effect.
func readRequest(w http.ResponseWriter, r *http.Request, asked any) error {
	return readLong(w, r, maxRequest, asked)
}

// readLong is readRequest for a body of at most so many bytes.
func readLong(w http.ResponseWriter, r *http.Request, limit int64, asked any) error {
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/json" {
		return errRequest("the request body must be application/json")
	}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(asked)
	if err == nil && decoder.Decode(new(any)) != io.EOF {
		err = errors.New("there is more than one value")
	}
	return errBody(err)
}

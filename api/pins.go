package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/registry"
)

// Desired is the administration of pins as desired state.
type Desired interface {
	PinsOf(ctx context.Context, refs []registry.Reference, drift bool) ([]registry.Pin, error)
	Update(ctx context.Context, ref registry.Reference, platforms []string, progress func(registry.Progress)) (registry.Pin, error)
	Rollback(ctx context.Context, ref registry.Reference, to digest.Digest, fetch bool, progress func(registry.Progress)) (registry.Pin, error)
	Lock() registry.Lock
	Apply(ctx context.Context, lock registry.Lock, o registry.ApplyOptions) (registry.Applied, error)
	Match(ctx context.Context, pattern string) ([]registry.Reference, error)
	Drill(ctx context.Context, o registry.DrillOptions) (registry.Drilled, error)
	// Referrers is the mirror's: what refers to a manifest.
	Referrers(ctx context.Context, in registry.Repository, of digest.Digest, q registry.ReferrersQuery) (registry.ReferrersPage, registry.Answer, error)
}

// pinsAdmin are the endpoints of Desired, by path and method.
func (s *Server) pinsAdmin() map[string]map[string]handler {
	return map[string]map[string]handler{
		"/api/v1/pins/export":   {http.MethodGet: s.exportPins},
		"/api/v1/pins/apply":    {http.MethodPost: s.applyPins},
		"/api/v1/pins/rollback": {http.MethodPost: s.rollbackPin},
		"/api/v1/pins/matches":  {http.MethodGet: s.matchPins},
		"/api/v1/drill":         {http.MethodPost: s.drill},
	}
}

// listPins answers with all pins, or with those of the ref parameters.
func (s *Server) listPins(r *http.Request) ([]registry.Pin, error) {
	query := r.URL.Query()
	drift := query.Get("drift") == "true"
	if !query.Has("ref") {
		return s.registry.Pins(r.Context(), drift)
	}
	refs, err := parseAll(query["ref"])
	if err != nil {
		return nil, err
	}
	return s.registry.PinsOf(r.Context(), refs, drift)
}

func parseAll(given []string) (refs []registry.Reference, err error) {
	for _, g := range given {
		ref, err := registry.ParseReference(g)
		if err != nil {
			return nil, err
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

// exportPins answers with the lockfile, or with format=json with its content.
func (s *Server) exportPins(w *record, r *http.Request) error {
	lock := s.registry.Lock()
	switch format := r.URL.Query().Get("format"); format {
	case "json":
		return writeJSON(w, r, lock)
	case "", "toml":
	default:
		return errRequest("format is toml or json")
	}
	w.Header().Set("Content-Type", "application/toml")
	_, err := w.Write(lock.Format())
	return w.sent(err)
}

func (s *Server) applyPins(w *record, r *http.Request) error {
	var asked struct {
		Pins   []registry.LockedPin `json:"pins"`
		DryRun bool                 `json:"dry_run"`
		Prune  bool                 `json:"prune"`
	}
	if err := readLong(w, r, maxLock, &asked); err != nil {
		return err
	}
	if asked.Pins == nil {
		return errRequest("the list of pins is missing") // which would otherwise prune all
	}
	w.concerns(strconv.Itoa(len(asked.Pins)) + " pins")
	applied, err := s.registry.Apply(r.Context(), registry.Lock{Pins: asked.Pins}, registry.ApplyOptions{DryRun: asked.DryRun, Prune: asked.Prune})
	if err != nil {
		return err
	}
	return writeJSON(w, r, applied)
}

// maxLock is the longest list of pins in bytes: some hundred thousand pins.
const maxLock = 32 << 20

func (s *Server) rollbackPin(w *record, r *http.Request) error {
	var asked struct {
		Reference string `json:"reference"`
		To        string `json:"to"`
		Fetch     bool   `json:"fetch"`
	}
	if err := readRequest(w, r, &asked); err != nil {
		return err
	}
	ref, err := registry.ParseReference(asked.Reference)
	if err != nil {
		return err
	}
	var to digest.Digest
	if asked.To != "" {
		if to, err = registry.ParseDigest(asked.To); err != nil {
			return err
		}
	}
	w.concerns(ref.String())
	return stream(w, func(progress func(registry.Progress)) (registry.Pin, error) {
		return s.registry.Rollback(r.Context(), ref, to, asked.Fetch, progress)
	}, lastPin)
}

func (s *Server) matchPins(w *record, r *http.Request) error {
	pattern := r.URL.Query().Get("pattern")
	if pattern == "" {
		return errRequest("the parameter pattern is missing")
	}
	matches, err := s.registry.Match(r.Context(), pattern)
	if err != nil {
		return err
	}
	names := make([]string, 0, len(matches))
	for _, ref := range matches {
		names = append(names, ref.String())
	}
	return writeJSON(w, r, map[string][]string{"references": names})
}

func (s *Server) drill(w *record, r *http.Request) error {
	var asked struct {
		References []string `json:"references"`
		Recent     string   `json:"recent"` // a duration such as "168h"
		ForReal    bool     `json:"for_real"`
	}
	if err := readLong(w, r, maxLock, &asked); err != nil {
		return err
	}
	refs, err := parseAll(asked.References)
	if err != nil {
		return err
	}
	var recent time.Duration
	if asked.Recent != "" {
		if recent, err = time.ParseDuration(asked.Recent); err != nil || recent < 0 {
			return errRequest("recent is not a duration such as 168h")
		}
	}
	drilled, err := s.registry.Drill(r.Context(), registry.DrillOptions{References: refs, Recent: recent, ForReal: asked.ForReal})
	if err != nil {
		return err
	}
	return writeJSON(w, r, drilled)
}

// lastPin is the last line of a stream that ends with a pin.
func lastPin(pin registry.Pin) any {
	return struct {
		Pin registry.Pin `json:"pin"`
	}{pin}
}

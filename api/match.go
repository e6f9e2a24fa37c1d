package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/api/access"
	"github.com/imagecache/imagecache/registry"
)

const (
	// They bound a list of digests, in bytes and in number: 50,000 are the layers
	// of some thousand images, and take 100 bytes each, or 170 as sha512.
	maxMatch  = 8 << 20
	matchMost = 50_000
)

// matchBlobs answers which of the blobs that the caller has are here, as the
// Cloud Controller's resource_match does. Who comes over the network is told of
// what it may pull.
func (s *Server) matchBlobs(w *record, r *http.Request) error {
	var asked []registry.Sought
	if err := readLong(w, r, maxMatch, &asked); err != nil {
		return err
	}
	switch {
	case asked == nil:
		return errRequest("the request body must be a list")
	case len(asked) > matchMost:
		return errRequest(fmt.Sprintf("at most %d digests at once, there are %d", matchMost, len(asked)))
	}
	for _, sought := range asked {
		if _, err := registry.ParseDigest(sought.Digest.String()); err != nil {
			return err
		}
		if sought.Size < 0 {
			return errRequest(fmt.Sprintf("the size of %s is %d: sizes are not negative", sought.Digest, sought.Size))
		}
	}
	var may func(string) (may, right bool)
	if w.remote {
		may = func(repository string) (may, right bool) {
			return s.gate.Allow(w.caller, access.Pull, repository), s.gate.Names(w.caller, access.Pull, repository)
		}
	}
	here, err := s.registry.Here(r.Context(), asked, may)
	if err != nil {
		return err
	}
	return writeJSON(w, r, here)
}

// Archives are images on their way in and out, and what of them is here.
type Archives interface {
	Here(ctx context.Context, sought []registry.Sought, may func(repository string) (may, right bool)) ([]registry.Sought, error)
	Export(ctx context.Context, o registry.ExportOptions) (*registry.Export, error)
	Importer
}

// digestsOf checks digests that are given as text.
func digestsOf(given []string) (all []digest.Digest, err error) {
	for _, g := range given {
		d, err := registry.ParseDigest(g)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

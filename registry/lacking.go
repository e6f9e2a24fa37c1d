package registry

import (
	"context"
	"errors"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/layerstore"
)

// KindRight is the kind of a [Lack] of what is here and may not be served.
const KindRight = "right"

// lackForeign is the kind of a layer that no registry gives.
const lackForeign = "foreign layer"

// Lack is something that an image needs to start and that is not here.
type Lack struct {
	Kind     string `json:"kind"` // manifest, platform, config, layer, foreign layer, tag, right
	Digest   string `json:"digest,omitempty"`
	Platform string `json:"platform,omitempty"` // of the image that needs it
	Reason   string `json:"reason"`
}

func (l Lack) String() string {
	s := l.Kind
	if l.Digest != "" {
		s += " " + l.Digest
	}
	if l.Platform != "" {
		s += " of " + l.Platform
	}
	return s + ": " + l.Reason
}

// checker says why a blob cannot be served from here, "" when it can.
type checker func(ctx context.Context, d digest.Digest) (reason string)

// reasonAbsent is why most things lack.
const reasonAbsent = "not here"

// here looks, and reads nothing.
func (r *Registry) here(_ context.Context, d digest.Digest) string {
	_, err := r.store.Stat(d)
	return whyAbsent(err)
}

// readable reads all of a blob and hashes it, and tells how many bytes it has.
// That does not count as a use of it: what is drilled is not evicted later than
// what nobody looked at.
func (r *Registry) readable(ctx context.Context, d digest.Digest) (bytes int64, reason string) {
	bytes, err := r.store.Prove(ctx, d)
	var rot *layerstore.RotError
	if errors.As(err, &rot) {
		return bytes, "rotten: " + rot.Err.Error()
	}
	return bytes, whyAbsent(err)
}

func whyAbsent(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, layerstore.ErrNotFound):
		return reasonAbsent
	}
	return err.Error()
}

// lackSearch goes over what an image needs, by manifests that are here alone.
type lackSearch struct {
	r     *Registry
	check checker
	lacks []Lack
}

// lacksOf lists what an image lacks for some platforms.
func (r *Registry) lacksOf(ctx context.Context, top digest.Digest, wanted []string, check checker) []Lack {
	s := &lackSearch{r: r, check: check}
	s.manifest(ctx, top, "", wanted, 0)
	return s.lacks
}

func (s *lackSearch) note(kind string, d digest.Digest, platform, reason string) {
	if reason != "" {
		s.lacks = append(s.lacks, Lack{Kind: kind, Digest: d.String(), Platform: platform, Reason: reason})
	}
}

func (s *lackSearch) manifest(ctx context.Context, d digest.Digest, platform string, wanted []string, depth int) {
	if ctx.Err() != nil || depth > depthMost {
		return
	}
	// What is in memory only does not count: it is gone when we are started anew.
	if reason := s.check(ctx, d); reason != "" {
		s.note("manifest", d, platform, reason)
		return
	}
	m, err := s.r.local(d)
	if err != nil {
		s.note("manifest", d, platform, whyAbsent(err))
		return
	}
	children, err := m.choose(wanted)
	if err != nil {
		s.note("platform", d, platform, err.Error())
	}
	for _, c := range children {
		name := platform
		if c.Platform != nil {
			name = platforms.Format(*c.Platform)
		}
		s.manifest(ctx, c.Digest, name, wanted, depth+1)
	}
	s.blobs(ctx, m, platform)
}

func (s *lackSearch) blobs(ctx context.Context, m *Manifest, platform string) {
	if c := m.parsed.config; c != nil {
		s.note("config", c.Digest, platform, s.check(ctx, c.Digest))
	}
	for _, l := range m.parsed.contents() {
		kind, reason := "layer", s.check(ctx, l.Digest)
		if reason == reasonAbsent && s.r.stands(m, l.Digest) {
			reason = reasonDropped
		}
		if reason == reasonAbsent && isForeign(l) {
			kind, reason = lackForeign, "it is fetched from elsewhere, never through a registry"
		}
		s.note(kind, l.Digest, platform, reason)
	}
}

// partDropped parts what lacks from what is here unpacked only.
func partDropped(all []Lack) (lacks, dropped []Lack) {
	for _, l := range all {
		if l.Reason == reasonDropped {
			dropped = append(dropped, l)
		} else {
			lacks = append(lacks, l)
		}
	}
	return lacks, dropped
}

package layerstore

import (
	"sync"

	"github.com/opencontainers/go-digest"
)

// suspectsMost bounds the memory of digests that proved wrong. Beyond it the
// memory begins anew: a client that was cut asks again within seconds.
const suspectsMost = 1024

// suspects remembers digests whose blob proved wrong. A client may hold a part
// of the wrong blob and ask for the rest by a range, which it must not
// complete before the new one is proven.
type suspects struct {
	mu  sync.Mutex // guards set
	set map[digest.Digest]struct{}
}

func (s *suspects) add(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set == nil || len(s.set) >= suspectsMost {
		s.set = map[digest.Digest]struct{}{}
	}
	s.set[d] = struct{}{}
}

func (s *suspects) has(d digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.set[d]
	return ok
}

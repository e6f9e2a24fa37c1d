package registry

import (
	"context"
	"strings"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// Sought is a blob that somebody has, and asks whether it is here too. Size is
// in bytes; 0 stands for any.
type Sought struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size,omitempty"`
}

// Here tells which blobs are here whole, with their sizes, each once and in the
// order in which they are sought. A digest that is here with another size is
// not. may, where it is set, says in which repositories the caller may look:
// then a digest counts only if it is known to be in one of them. Both databases
// are looked into once, whatever the number of digests.
func (r *Registry) Here(ctx context.Context, sought []Sought, may func(repository string) bool) ([]Sought, error) {
	digests := make([]digest.Digest, len(sought))
	for i, s := range sought {
		digests[i] = s.Digest
	}
	sizes, err := r.store.Sizes(digests)
	if err != nil {
		return nil, err
	}
	if may != nil {
		if err := r.keepSeen(ctx, sizes, may); err != nil {
			return nil, err
		}
	}
	here := []Sought{}
	for _, s := range sought {
		size, ok := sizes[s.Digest]
		if ok && (s.Size == 0 || s.Size == size) {
			here = append(here, Sought{s.Digest, size})
			delete(sizes, s.Digest) // once
		}
	}
	return here, nil
}

// keepSeen leaves the digests that are known to be in a repository in which the
// caller may look. A rule that lets it do so shows it what we got there with any
// right, as when it pulls ([WithRight]).
func (r *Registry) keepSeen(ctx context.Context, sizes map[digest.Digest]int64, may func(repository string) bool) error {
	seen := make(map[digest.Digest]bool, len(sizes))
	repository, allowed := "", false
	err := r.state.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketHolds).ForEach(func(k, _ []byte) error {
			name, d, _ := strings.Cut(string(k), "@")
			if name != repository { // rows of one repository stand together
				repository, allowed = name, r.routed(name) && may(name)
			}
			if _, wanted := sizes[digest.Digest(d)]; wanted && allowed {
				seen[digest.Digest(d)] = true
			}
			return ctx.Err()
		})
	})
	for d := range sizes {
		if !seen[d] {
			delete(sizes, d)
		}
	}
	return err
}

// routed reports whether there still is an upstream or a home for a repository.
func (r *Registry) routed(repository string) bool {
	registry, _, _ := strings.Cut(repository, "/")
	_, err := r.routes.upstream(registry)
	return err == nil
}

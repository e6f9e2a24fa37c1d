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
// not. may, where it is set, says in which repositories the caller may look, and
// where by a right of its own ([WithRight]): then a digest counts only if it is
// known to be in one of them, and may be seen there. Both databases
// are looked into once, whatever the number of digests.
func (r *Registry) Here(ctx context.Context, sought []Sought, may func(repository string) (may, right bool)) ([]Sought, error) {
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
// caller may look, and that it would see there if it pulled.
func (r *Registry) keepSeen(ctx context.Context, sizes map[digest.Digest]int64, may func(repository string) (may, right bool)) error {
	seen := make(map[digest.Digest]bool, len(sizes))
	repository, allowed, as := "", false, view{}
	err := r.state.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketHolds).ForEach(func(k, how []byte) error {
			name, d, _ := strings.Cut(string(k), "@")
			if name != repository { // rows of one repository stand together
				repository = name
				as, allowed = r.lookingIn(name, may)
			}
			if _, wanted := sizes[digest.Digest(d)]; wanted && allowed && as.sees(string(how)) {
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

// lookingIn is a repository as who asks sees it, if there still is an upstream
// or a home for it, and the caller may look there.
func (r *Registry) lookingIn(repository string, may func(string) (may, right bool)) (view, bool) {
	registry, path, _ := strings.Cut(repository, "/")
	v, err := r.view(Repository{Registry: registry, Path: path})
	if err != nil {
		return v, false
	}
	allowed, right := may(repository)
	v.open = v.open || right
	return v, allowed
}

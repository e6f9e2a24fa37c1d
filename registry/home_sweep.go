package registry

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

const (
	// A blob that no manifest of its repository names is kept this long: who
	// pushes blobs pushes their manifest next, or goes on tomorrow.
	unnamedKept = 24 * time.Hour
	// sweepEvery is how often such blobs are looked for.
	sweepEvery = time.Hour
)

// sweepHome lets go of blobs that were pushed and that nothing has named for
// unnamedKept, or that nothing names any more since a manifest was deleted,
// hourly until the registry closes. [Registry.Collect] does so, too.
func (r *Registry) sweepHome() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C:
			r.sweepUnnamed()
		}
	}
}

// unname makes blobs that a deleted manifest named go at the next look for such
// blobs, unless another manifest names them: nobody is about to name them. Who
// calls holds pushing for writing.
func (r *Registry) unname(in Repository, blobs []digest.Digest) error {
	return r.state.db.Batch(func(tx *bolt.Tx) error {
		for _, d := range blobs {
			key := string(holdKey(in, d))
			var row homeRow
			value := tx.Bucket(bucketHome).Get([]byte(key))
			if value == nil || json.Unmarshal(value, &row) != nil || row.MediaType != "" {
				continue
			}
			row.At = 0
			if err := put(tx, bucketHome, key, row); err != nil {
				return err
			}
		}
		return nil
	})
}

// sweepUnnamed does one round, a repository at a time.
func (r *Registry) sweepUnnamed() {
	names, err := r.Catalog(r.ctx)
	for _, name := range names {
		registry, path, _ := strings.Cut(name, "/")
		if err == nil {
			err = r.sweepRepository(Repository{Registry: registry, Path: path})
		}
	}
	if err != nil {
		r.log.Error("blobs that no manifest names are still kept", "error", err)
	}
}

func (r *Registry) sweepRepository(in Repository) error {
	r.pushing.Lock()
	defer r.pushing.Unlock()
	var unnamed, manifests []digest.Digest
	before := r.now().Add(-unnamedKept).Unix()
	err := r.eachPushed(in, func(d digest.Digest, row homeRow) error {
		switch {
		case row.MediaType != "":
			manifests = append(manifests, d)
		case row.At < before:
			unnamed = append(unnamed, d)
		}
		return nil
	})
	if err != nil || len(unnamed) == 0 {
		return err
	}
	named := map[digest.Digest]bool{}
	for _, m := range manifests {
		refs, err := r.store.Refs(m)
		if err != nil {
			return err
		}
		for _, d := range refs {
			named[d] = true
		}
	}
	for _, d := range slices.DeleteFunc(unnamed, func(d digest.Digest) bool { return named[d] }) {
		if err := r.leave(in, d); err != nil {
			return err
		}
		r.log.Info("a blob that was pushed and never named is let go", "repository", in.String(), "digest", d)
	}
	return nil
}

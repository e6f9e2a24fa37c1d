package registry

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/layerstore"
)

const (
	// A blob that no manifest of its repository names is kept this long: who
	// pushes blobs pushes their manifest next, or goes on tomorrow.
	unnamedKept = 24 * time.Hour
	// sweepEvery is how often such blobs are looked for.
	sweepEvery = time.Hour
)

// sweepHome lets go of blobs that were pushed and that nothing has named for
// unnamedKept, or that nothing names any more since a manifest was deleted, and
// that no client was told of for toldFor, hourly until the registry closes.
// [Registry.Collect] does so, too.
func (r *Registry) sweepHome() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C:
			r.sweepUnnamed(false)
		}
	}
}

// unname makes blobs that a deleted manifest named due, unless another manifest
// names them. Who calls holds pushing for writing.
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
			r.unnamed.note(key, r.now())
		}
		return nil
	})
}

// sweepUnnamed does one round, a repository at a time; with dryRun it only tells.
// freed is what it took from the disk, of all that has left homes.
func (r *Registry) sweepUnnamed(dryRun bool) (told Unnamed, freed layerstore.Freed) {
	names, err := r.Catalog(r.ctx)
	for _, name := range names {
		registry, path, _ := strings.Cut(name, "/")
		if err == nil {
			err = r.sweepRepository(Repository{Registry: registry, Path: path}, dryRun, &told)
		}
	}
	if err == nil && !dryRun {
		freed, err = r.dropLeft()
	}
	if err != nil {
		r.log.Error("blobs that no manifest names are still kept", "error", err)
	}
	return told, freed
}

func (r *Registry) sweepRepository(in Repository, dryRun bool, told *Unnamed) error {
	r.pushing.Lock()
	defer r.pushing.Unlock()
	found, err := r.findUnnamed(in)
	if err != nil {
		return err
	}
	var due []digest.Digest
	now := r.now()
	for d, size := range found {
		key := string(holdKey(in, d))
		switch {
		case r.unnamed.due(key, now, !dryRun):
			told.Gone++
			told.GoneBytes += size
			due = append(due, d)
			continue
		case !dryRun:
			r.unnamed.note(key, now)
		}
		told.Kept++
		told.KeptBytes += size
	}
	if dryRun || len(due) == 0 {
		return nil
	}
	if err := r.leave(in, due...); err != nil {
		return err
	}
	r.log.Info("blobs that were pushed and that no manifest names are let go", "repository", in.String(), "blobs", len(due))
	return nil
}

// findUnnamed are the blobs of a repository that are due, with their sizes.
func (r *Registry) findUnnamed(in Repository) (found map[digest.Digest]int64, err error) {
	found = map[digest.Digest]int64{}
	var manifests []digest.Digest
	before := r.now().Add(-unnamedKept).Unix()
	err = r.eachPushed(in, func(d digest.Digest, row homeRow) error {
		switch {
		case row.MediaType != "":
			manifests = append(manifests, d)
		case row.At < before:
			found[d] = row.Size
		}
		return nil
	})
	if err != nil || len(found) == 0 {
		return found, err
	}
	for _, m := range manifests {
		refs, err := r.store.Refs(m)
		if err != nil {
			return nil, err
		}
		for _, d := range refs {
			if _, due := found[d]; due {
				delete(found, d)
				r.unnamed.forget(string(holdKey(in, d)))
			}
		}
	}
	return found, nil
}

package registry

import (
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// A blob that no manifest of its repository names is kept this long: who
	// pushes blobs pushes their manifest next, or goes on tomorrow.
	unnamedKept = 24 * time.Hour
	// sweepEvery is how often such blobs are looked for.
	sweepEvery = time.Hour
)

// sweepHome lets go of blobs that were pushed and that nothing has named for
// unnamedKept, hourly until the registry closes.
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

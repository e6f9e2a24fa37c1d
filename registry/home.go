package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// LocalHome is the home that is there without any settings. Its name is no
// host, so that no upstream can have it; docker.io/local/… is Docker Hub's.
const LocalHome = "local"

// home is a registry that is nowhere but here: images are pushed to it. It
// stands where an upstream does, so that pins, drift, drills and pulls need not
// know that there is nobody to ask. What is in it is kept until it is deleted,
// each manifest and each blob by a root of its own.
type home struct{ r *Registry }

// newHome makes the upstream that a home is for all others.
func newHome(o UpstreamOptions, env upstreamEnv) *upstream {
	env = env.withDefaults()
	o.GrantTTL, o.GrantGrace = defaultGrantTTL, defaultGrantGrace
	u := &upstream{name: canonicalRegistry(o.Name), options: o, env: env, home: &home{},
		tally: &tally{}, outage: &outage{now: env.now, random: env.random}, limit: &limit{now: env.now}}
	u.bare = u
	return u
}

// settle gives the homes among the routes what they answer from.
func (r *routes) settle(in *Registry) {
	for _, u := range r.byName {
		if u.home != nil {
			u.home.r = in
		}
	}
}

// homeOf is the upstream that a repository's home is, nil for any other.
func (r *Registry) homeOf(in Repository) *upstream {
	if u, err := r.routes.upstream(in.Registry); err == nil && u.home != nil {
		return u
	}
	return nil
}

// homeRow is what is known of a manifest or blob that was pushed. The media
// type of a blob is "".
type homeRow struct {
	MediaType string `json:"mediaType,omitempty"`
	Size      int64  `json:"size"`
	At        int64  `json:"at"` // when it came, in Unix seconds
	// Subject is the manifest that this one refers to.
	Subject digest.Digest `json:"subject,omitempty"`
	// ArtifactType is what it is listed as among the referrers of its subject.
	ArtifactType string `json:"artifactType,omitempty"`
}

// rootOfHome names the store's root that keeps what was pushed.
const rootOfHome = "home "

func homeRoot(in Repository, d digest.Digest) string { return rootOfHome + string(holdKey(in, d)) }

// manifest gives a manifest that was pushed, in the form of an upstream's answer.
func (h *home) manifest(ref Reference) (fetchedManifest, error) {
	d, err := h.resolve(ref)
	if err != nil {
		return fetchedManifest{}, err
	}
	if row, err := h.row(ref.Repository, d); err != nil || row.MediaType == "" {
		return fetchedManifest{}, notPushed(CodeManifestUnknown, ref.String())
	}
	m, err := h.r.local(d)
	if err != nil {
		return fetchedManifest{}, err
	}
	return fetchedManifest{Descriptor: m.Descriptor, Content: m.Content, parsed: m.parsed}, nil
}

// atHome gives the manifest that a tag of a home means: what it says is true,
// and there is nothing that it could be old against.
func (r *Registry) atHome(ctx context.Context, v view, ref Reference) (*Manifest, Answer, error) {
	d, err := v.upstream.home.resolve(ref)
	if err != nil {
		return nil, Answer{}, err
	}
	return r.byDigest(ctx, v, d)
}

// resolve is the digest that a reference means.
func (h *home) resolve(ref Reference) (digest.Digest, error) {
	if ref.Digest != "" {
		return ref.Digest, nil
	}
	t, ok := h.r.tagged(ref.String())
	if !ok {
		return "", notPushed(CodeManifestUnknown, ref.String())
	}
	return t.row.Digest, nil
}

// head is manifest without the content.
func (h *home) head(in Repository, tagOrDigest string) (specs.Descriptor, error) {
	ref, err := in.Reference(tagOrDigest)
	if err != nil {
		return specs.Descriptor{}, err
	}
	got, err := h.manifest(ref)
	return got.Descriptor, err
}

// blobSize tells the size of a blob that was pushed to a repository.
func (h *home) blobSize(in Repository, d digest.Digest) (int64, error) {
	row, err := h.row(in, d)
	return row.Size, err
}

// row is what is known of something that was pushed. The error has
// [CodeBlobUnknown] when it was not.
func (h *home) row(in Repository, d digest.Digest) (row homeRow, err error) {
	err = h.r.state.db.View(func(tx *bolt.Tx) error {
		value := tx.Bucket(bucketHome).Get(holdKey(in, d))
		if value == nil {
			return notPushed(CodeBlobUnknown, string(holdKey(in, d)))
		}
		return json.Unmarshal(value, &row)
	})
	return row, err
}

func notPushed(code Code, reference string) *Error {
	return &Error{Code: code, Reference: reference, Message: "nothing of this name was pushed here"}
}

// eachPushed calls f with everything that was pushed to a repository.
func (r *Registry) eachPushed(in Repository, f func(digest.Digest, homeRow) error) error {
	return r.state.db.View(func(tx *bolt.Tx) error {
		prefix := in.String() + "@"
		c := tx.Bucket(bucketHome).Cursor()
		for k, v := c.Seek([]byte(prefix)); k != nil; k, v = c.Next() {
			d, ok := strings.CutPrefix(string(k), prefix)
			if !ok {
				return nil
			}
			var row homeRow
			if err := json.Unmarshal(v, &row); err != nil {
				return fmt.Errorf("row %s of %s: %w", k, bucketHome, err)
			}
			if err := f(digest.Digest(d), row); err != nil {
				return err
			}
		}
		return nil
	})
}

// Catalog lists the repositories to which something was pushed, sorted.
func (r *Registry) Catalog(context.Context) ([]string, error) {
	names := []string{}
	err := r.state.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketHome).Cursor()
		for k, _ := c.First(); k != nil; {
			name, _, _ := strings.Cut(string(k), "@")
			names = append(names, name)
			k, _ = c.Seek([]byte(name + "@\xff")) // past everything of this repository
		}
		return nil
	})
	slices.Sort(names) // keys have an @ behind the name, which changes their order
	return names, err
}

// alignHome gives all that was pushed its root, and takes the roots of what a
// kill left without a row.
func (r *Registry) alignHome() error {
	roots, err := r.store.Roots()
	if err != nil {
		return err
	}
	missing := map[string]digest.Digest{}
	err = each(r.state, bucketHome, func(key string, _ homeRow) error {
		if _, ok := roots[rootOfHome+key]; !ok {
			_, d, _ := strings.Cut(key, "@")
			missing[rootOfHome+key] = digest.Digest(d)
		}
		delete(roots, rootOfHome+key)
		return nil
	})
	if err != nil {
		return err
	}
	gone := slices.Collect(maps.Keys(roots))
	gone = slices.DeleteFunc(gone, func(name string) bool { return !strings.HasPrefix(name, rootOfHome) })
	if err := r.store.ChangeRoots(missing, gone); err != nil {
		return err
	}
	r.log.LogAttrs(r.ctx, slog.LevelDebug, "what was pushed is kept", slog.Int("roots_made", len(missing)))
	return r.alignReferrers()
}

package registry

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

const (
	// rightSoon is how near the end of the last right to an image may come
	// before a drill tells of it: an outage is noticed and mended in hours.
	rightSoon = 6 * time.Hour
	// refusedLately is how long a refusal of our own credential is told of, where
	// nothing was heard since.
	refusedLately = 24 * time.Hour
	// refusalsMost is how many repositories' refusals are remembered.
	refusalsMost = 4096
)

// ownRefusals are the repositories that upstreams refused to our own credential
// last time, by their names, and since when.
type ownRefusals struct {
	now func() time.Time

	mu sync.Mutex // guards of
	of map[string]time.Time
}

func (o *ownRefusals) refused(in Repository) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, known := o.of[in.String()]; known {
		return
	}
	if o.of == nil || len(o.of) >= refusalsMost {
		o.of = map[string]time.Time{}
	}
	o.of[in.String()] = o.now()
}

func (o *ownRefusals) accepted(in Repository) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.of, in.String())
}

func (o *ownRefusals) since(in Repository) (at time.Time, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	at, ok = o.of[in.String()]
	return at, ok && o.now().Sub(at) < refusedLately
}

// watchOwn has it noted what upstreams say to our own credentials.
func (r *Registry) watchOwn() {
	r.own.now = r.now
	for _, u := range r.routes.all() {
		if u.auth == nil {
			continue
		}
		u.auth.refused = func(path string) { r.own.refused(Repository{Registry: u.name, Path: path}) }
		u.auth.accepted = func(path string) { r.own.accepted(Repository{Registry: u.name, Path: path}) }
	}
}

// lastGrants is when a right to each repository was last shown, by anybody.
func (r *Registry) lastGrants() (map[string]time.Time, error) {
	last := map[string]time.Time{}
	return last, r.state.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketGrants).ForEach(func(k, v []byte) error {
			_, in, _ := strings.Cut(string(k), " ")
			var row grantRow
			if err := json.Unmarshal(v, &row); err != nil {
				return fmt.Errorf("row of a grant for %s: %w", in, err)
			}
			if row.Proven.After(last[in]) {
				last[in] = row.Proven
			}
			return nil
		})
	})
}

// rights finds out whether somebody could have an image while its upstream is
// away: where rights are looked at, upstream must have shown all of it in this
// repository, and of a private one somebody must have shown a right that is
// believed for long enough. What is here still, and will not be for long, or
// not again, goes to one.Expires.
func (d *drill) rights(ref Reference, one *DrilledReference) {
	v, err := d.r.view(ref.Repository)
	if err != nil {
		one.Lacks = append(one.Lacks, Lack{Kind: KindRight, Reason: err.Error()})
		return
	}
	private := d.r.shownPrivately(ref, digest.Digest(one.Digest), one.Pinned)
	d.refusedToUs(v, private, one)
	if v.everywhere {
		return
	}
	p, err := d.r.planOf(digest.Digest(one.Digest), one.Platforms)
	if err != nil {
		return // and other reasons tell of it
	}
	private = d.notShown(v, p, one) || private
	if !v.open && private && !d.r.ruled { // a rule that names a caller does not end
		d.lastRight(v, one)
	}
}

// notShown tells of what is here and was not shown in the repository, and
// whether anything was shown to a credential alone.
func (d *drill) notShown(v view, p *plan, one *DrilledReference) (private bool) {
	needed := make([]digest.Digest, 0, len(p.manifests)+len(p.blobs))
	for _, m := range p.manifests {
		needed = append(needed, m.Descriptor.Digest)
	}
	for _, b := range p.blobs {
		needed = append(needed, b.Digest)
	}
	for _, n := range needed {
		how, err := d.r.state.hold(v.repository, n)
		switch {
		case err != nil:
			one.Lacks = append(one.Lacks, Lack{Kind: KindRight, Digest: n.String(), Reason: err.Error()})
		case how == "" && d.check(d.r.ctx, n) == "":
			one.Lacks = append(one.Lacks, Lack{Kind: KindRight, Digest: n.String(), Reason: "it came from another repository, and upstream has not shown it in this one"})
		}
		private = private || how == holdPrivate
	}
	return private
}

// lastRight tells when the last right ends, or that there is none.
func (d *drill) lastRight(v view, one *DrilledReference) {
	if d.grants == nil {
		var err error
		if d.grants, err = d.r.lastGrants(); err != nil {
			one.Lacks = append(one.Lacks, Lack{Kind: KindRight, Reason: err.Error()})
			return
		}
	}
	at, shown := d.grants[v.repository.String()]
	left := at.Add(v.upstream.options.GrantGrace).Sub(d.r.now())
	switch {
	case !shown || left <= 0:
		one.Lacks = append(one.Lacks, Lack{Kind: KindRight,
			Reason: fmt.Sprintf("it is private, and no caller has shown a right to it within the last %s (grant_grace)", v.upstream.options.GrantGrace)})
	case left < rightSoon:
		one.Expires = append(one.Expires, Lack{Kind: KindRight,
			Reason: fmt.Sprintf("it is private, and the last right that a caller has shown ends in %s (grant_grace)", left.Round(time.Minute))})
	}
}

// refusedToUs tells that upstream refuses our own credential, with which a
// private image was fetched.
func (d *drill) refusedToUs(v view, private bool, one *DrilledReference) {
	since, refused := d.r.own.since(v.repository)
	if !private || !refused {
		return
	}
	one.Expires = append(one.Expires, Lack{Kind: KindRight,
		Reason: fmt.Sprintf("upstream refuses our credential since %s: what is here is served, and nothing of it can be fetched again", since.UTC().Format(time.RFC3339))})
}

// shownPrivately reports whether the manifest, or the tag that names it, was
// given to a credential alone.
func (r *Registry) shownPrivately(ref Reference, d digest.Digest, pinned bool) bool {
	if t, ok := r.tagged(ref.String()); ok && !pinned && t.row.Digest == d && !t.row.Public {
		return true
	}
	how, err := r.state.hold(ref.Repository, d)
	return err == nil && how == holdPrivate
}

// planOf is what an image that is here needs.
func (r *Registry) planOf(top digest.Digest, wanted []string) (*plan, error) {
	m, err := r.local(top)
	if err != nil {
		return nil, err
	}
	return r.localPlan(m, wanted)
}

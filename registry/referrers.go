package registry

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// referrersOfPin is how many referrers are kept with a pin: a signature, an
	// SBOM and a provenance for each of a dozen platforms.
	referrersOfPin = 50
	// referrerMost is the largest referrer that is kept with a pin, its blobs
	// together, in bytes: SBOMs have some MiB, and anything may be attached.
	referrerMost = 64 << 20
	// referrerLists is how many answers of the referrers API are remembered.
	referrerLists = 512
	// referrersKeptMost is the longest answer that is remembered: memory is for many short ones.
	referrersKeptMost = 64
)

// referrerList is what upstream answered, and when.
type referrerList struct {
	list []specs.Descriptor
	at   time.Time
}

// ReferrersQuery says which referrers of a manifest are wanted.
type ReferrersQuery struct {
	ArtifactType string        // those of this type; "": of any
	After        digest.Digest // those behind this one in the order of digests; "": from the first
}

// ReferrersPage is a part of the referrers of a manifest, which is never nil.
type ReferrersPage struct {
	Manifests []specs.Descriptor
	Next      digest.Digest // the [ReferrersQuery.After] of the next part; "" where nothing is left
}

// referrersPageMost bounds a page, in bytes of JSON, but for a single referrer
// with more annotations: clients take an index of 4 MiB, and not all ask for a
// second page.
const referrersPageMost = 3 << 20

// sizeInList is about how many bytes of JSON a referrer takes.
func sizeInList(d specs.Descriptor) int {
	content, _ := json.Marshal(d) // strings and numbers only: cannot fail
	return len(content) + len(",")
}

// cut is the page of a list that is known wholly. One that fits stays in the
// order in which it came.
func (q ReferrersQuery) cut(list []specs.Descriptor) ReferrersPage {
	wanted := slices.DeleteFunc(slices.Clone(list), func(d specs.Descriptor) bool {
		return q.ArtifactType != "" && d.ArtifactType != q.ArtifactType
	})
	size := 0
	for _, d := range wanted {
		size += sizeInList(d)
	}
	page := ReferrersPage{Manifests: append([]specs.Descriptor{}, wanted...)}
	if size <= referrersPageMost && q.After == "" {
		return page
	}
	slices.SortFunc(wanted, func(a, b specs.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	page.Manifests = page.Manifests[:0]
	size = 0
	for _, d := range wanted {
		if d.Digest <= q.After {
			continue
		}
		if size += sizeInList(d); size > referrersPageMost && len(page.Manifests) > 0 {
			page.Next = page.Manifests[len(page.Manifests)-1].Digest
			break
		}
		page.Manifests = append(page.Manifests, d)
	}
	return page
}

// Referrers lists what refers to a manifest of a repository: signatures, SBOMs
// and the like. Upstream is asked, unless it was within the tag's lifetime;
// where it cannot be asked, what it said last is listed, else what is kept
// here. The list may be empty. Errors are as for Manifest.
func (r *Registry) Referrers(ctx context.Context, in Repository, of digest.Digest, q ReferrersQuery) (ReferrersPage, Answer, error) {
	page, a, err := r.referrersPage(ctx, in, of, q)
	if err != nil {
		return ReferrersPage{}, a, r.about(in.String()+"@"+of.String(), err)
	}
	a.Upstream = in.Registry
	return page, a, nil
}

func (r *Registry) referrersPage(ctx context.Context, in Repository, of digest.Digest, q ReferrersQuery) (ReferrersPage, Answer, error) {
	if u := r.homeOf(in); u != nil {
		page, err := u.home.referrersPage(in, of, q)
		return page, Answer{Outcome: OutcomeHit}, err
	}
	list, a, err := r.referrers(ctx, in, of)
	return q.cut(list), a, err
}

func (r *Registry) referrers(ctx context.Context, in Repository, of digest.Digest) ([]specs.Descriptor, Answer, error) {
	return look(ctx, r, wish{Reference{Repository: in, Digest: of}, subjectManifest}, func(v view) ([]specs.Descriptor, Answer, error) {
		return r.referrersIn(ctx, v, in, of)
	})
}

func (r *Registry) referrersIn(ctx context.Context, v view, in Repository, of digest.Digest) ([]specs.Descriptor, Answer, error) {
	key := v.key("referrers", Reference{Repository: in, Digest: of})
	old, known := r.referrersKnown.Get(key)
	age := r.now().Sub(old.at)
	if known && age >= 0 && age < v.upstream.options.TagTTL {
		return old.list, Answer{Outcome: OutcomeHit, Age: age}, nil
	}
	fresh, joined, err := r.askReferrers(ctx, v, key, of)
	switch {
	case err == nil:
		return fresh, Answer{Outcome: missOr(joined)}, nil
	case ctx.Err() != nil:
		return nil, Answer{}, context.Cause(ctx)
	case known && passing(err):
		return old.list, Answer{Outcome: OutcomeStale, Detail: err.Error(), Age: max(age, 0)}, nil
	case passing(err):
		list := r.referrersKept(v, of)
		if len(list) > 0 {
			return list, Answer{Outcome: OutcomeStale, Detail: err.Error()}, nil
		}
	}
	return nil, Answer{}, err
}

// passing reports whether an error is one of upstream's troubles, rather than
// its answer.
func passing(err error) bool {
	var e *Error
	return errors.Is(err, errNoAnswer) || errors.As(err, &e) && !e.Permanent()
}

func (r *Registry) askReferrers(ctx context.Context, v view, key string, of digest.Digest) ([]specs.Descriptor, bool, error) {
	if _, why, resting := v.upstream.resting(); resting {
		return nil, false, why
	}
	wait, cancel := context.WithTimeoutCause(ctx, answerWait, errNoAnswer)
	defer cancel()
	return ask(wait, r, key, func(ctx context.Context) ([]specs.Descriptor, error) {
		list, err := v.upstream.referrers(ctx, v.repository.Path, of)
		if err == nil && len(list) <= referrersKeptMost {
			r.referrersKnown.Add(key, referrerList{list, r.now()})
		}
		return list, err
	})
}

// referrersKept are those that are kept here and that the caller may see: an
// edge leads from the manifest to each.
func (r *Registry) referrersKept(v view, of digest.Digest) (list []specs.Descriptor) {
	for _, d := range r.referrerDigests(of) {
		how, err := r.state.hold(v.repository, d)
		if err != nil || !v.sees(how) {
			continue
		}
		if m, err := r.local(d); err == nil && subjectOf(m) == of { // what a tag of cosign's names has no subject
			list = append(list, asReferrer(m))
		}
	}
	return list
}

// referrerDigests are the manifests to which there is an edge from a manifest
// that does not name them.
func (r *Registry) referrerDigests(of digest.Digest) []digest.Digest {
	refs, err := r.store.Refs(of)
	if err != nil {
		return nil
	}
	m, err := r.local(of)
	if err != nil {
		return nil
	}
	named := map[digest.Digest]bool{}
	for _, d := range m.parsed.digests() {
		named[d] = true
	}
	return slices.DeleteFunc(refs, func(d digest.Digest) bool { return named[d] })
}

// asReferrer describes a manifest as the referrers API does: its artifact
// type, which is the config's where it has none of its own, and its annotations.
func asReferrer(m *Manifest) specs.Descriptor {
	var doc struct {
		ArtifactType string            `json:"artifactType"`
		Config       *specs.Descriptor `json:"config"`
		Annotations  map[string]string `json:"annotations"`
	}
	_ = json.Unmarshal(m.Content, &doc) // it was parsed before
	d := m.Descriptor
	d.Platform, d.ArtifactType, d.Annotations = nil, doc.ArtifactType, doc.Annotations
	if d.ArtifactType == "" && doc.Config != nil && !isIndex(d.MediaType) {
		d.ArtifactType = doc.Config.MediaType
	}
	return d
}

// subjectOf is the manifest that a manifest refers to, "" for none.
func subjectOf(m *Manifest) digest.Digest {
	var doc struct {
		Subject *specs.Descriptor `json:"subject"`
	}
	if json.Unmarshal(m.Content, &doc) != nil || doc.Subject == nil {
		return ""
	}
	return doc.Subject.Digest
}

// fetchReferrers brings what refers to a pinned image, and to its images for
// the chosen platforms, and ties it to them. It is best effort: what fails is
// logged, and tried again at the next look.
func (r *Registry) fetchReferrers(ctx context.Context, v view, p *plan) {
	left := referrersOfPin
	for _, m := range p.manifests {
		if err := r.fetchCosign(ctx, v, m.Descriptor.Digest); err != nil {
			r.log.Debug("what cosign's tags name for a pin not fetched", "digest", m.Descriptor.Digest, "error", err)
			if passing(err) {
				return
			}
		}
		list, err := v.upstream.referrers(ctx, v.repository.Path, m.Descriptor.Digest)
		if err != nil {
			r.log.Debug("referrers of a pin not listed", "digest", m.Descriptor.Digest, "error", err)
			return
		}
		for _, d := range list[:min(left, len(list))] {
			left--
			if err := r.fetchReferrer(ctx, v, m.Descriptor.Digest, d); err != nil {
				r.log.Debug("referrer of a pin not fetched", "digest", d.Digest, "error", err)
			}
		}
	}
}

// fetchReferrer brings one, if it says itself that it refers to the subject:
// a list alone could tie anything to anything.
func (r *Registry) fetchReferrer(ctx context.Context, v view, subject digest.Digest, d specs.Descriptor) error {
	m, _, err := r.byDigest(ctx, v, d.Digest)
	if err != nil {
		return err
	}
	if subjectOf(m) != subject {
		return invalid("it does not refer to %s", subject)
	}
	return r.tie(ctx, v, subject, m)
}

// tie keeps a manifest, and all of what it names, for as long as another one is kept.
func (r *Registry) tie(ctx context.Context, v view, subject digest.Digest, m *Manifest) error {
	if size := m.sizeOfBlobs(); size > referrerMost {
		return invalid("it has %d bytes, too many to be kept with a pin", size)
	}
	d := m.Descriptor.Digest
	// The edge comes first: a collection that runs meanwhile keeps the rest.
	if err := r.store.SetRefs(subject, []digest.Digest{d}); err != nil {
		return err
	}
	return r.fetchAll(ctx, v, m, []string{PlatformAll}, true, newReport(Reference{Repository: v.repository, Digest: d}, nil))
}

func (m *Manifest) sizeOfBlobs() (size int64) {
	for _, b := range m.parsed.names() {
		size += b.Size
	}
	return size
}

// referrersHere counts the referrers that are tied to what a pin keeps, and
// those of them that are wholly here.
func (r *Registry) referrersHere(row pinRow) (have, want int) {
	top, err := r.local(row.Digest)
	if err != nil {
		return 0, 0
	}
	p, err := r.localPlan(top, row.Platforms)
	if err != nil {
		return 0, 0
	}
	for _, m := range p.manifests {
		for _, d := range r.referrerDigests(m.Descriptor.Digest) {
			want++
			if h, err := r.holdingOf(pinRow{Digest: d, Platforms: []string{PlatformAll}}); err == nil && h.complete() {
				have++
			}
		}
	}
	return have, want
}

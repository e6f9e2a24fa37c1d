package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/layerstore"
)

// byDigest gives a manifest by its digest: from memory, from the store, from
// upstream, whose answer to this view is proof enough.
func (r *Registry) byDigest(ctx context.Context, v view, d digest.Digest) (*Manifest, Answer, error) {
	m, err := r.local(d)
	if err == nil {
		if err := r.allow(ctx, v, d); err != nil {
			return nil, Answer{}, err
		}
		return m, Answer{Outcome: OutcomeHit, Age: max(r.now().Sub(m.came), 0)}, nil
	}
	if !errors.Is(err, layerstore.ErrNotFound) {
		r.log.Error("manifest not read, upstream is asked", "digest", d, "error", err)
	}
	ref := Reference{Repository: v.repository, Digest: d}
	key := v.key("manifest", ref)
	if err := r.unknown.check(key); err != nil {
		return nil, Answer{}, err
	}
	if err := v.limited(); err != nil {
		return nil, Answer{}, err
	}
	wait, cancel := context.WithTimeoutCause(ctx, answerWait, errNoAnswer)
	defer cancel()
	m, joined, err := ask(wait, r, key, func(ctx context.Context) (*Manifest, error) {
		return r.fetchManifest(ctx, v, ref)
	})
	if err != nil {
		r.unknown.note(key, err)
		return nil, Answer{}, err
	}
	return m, Answer{Outcome: missOr(joined), Stored: true}, nil
}

// fetchManifest gets a manifest by digest from upstream and keeps it.
func (r *Registry) fetchManifest(ctx context.Context, v view, ref Reference) (*Manifest, error) {
	if m, err := r.local(ref.Digest); err == nil {
		return m, r.allow(ctx, v, ref.Digest) // it came while we were on the way to ask, perhaps from elsewhere
	}
	if len(v.upstream.mirrors) > 0 && !v.believesMirrors() {
		if err := r.allow(ctx, v, ref.Digest); err != nil {
			return nil, err // a mirror would give it, which is nobody's right to it
		}
	}
	got, err := v.upstream.manifest(v.sparing(ctx), ref.Path, ref)
	if err != nil {
		return nil, err
	}
	m := r.take(ref.Repository, got)
	r.show(ref.Repository, m.Descriptor.Digest, got.how())
	r.background(func() {
		r.keepOrLater(ref.String(), m.Descriptor.Size, func() error {
			return r.keep(r.ctx, m, ref.Repository, got.how())
		})
	})
	return m, nil
}

// how is the hold that follows from who sent a manifest.
func (m fetchedManifest) how() string {
	if m.Mirror != "" {
		return holdMirror
	}
	return howHeld(m.Anonymous)
}

// take holds in memory what upstream sent.
func (r *Registry) take(in Repository, got fetchedManifest) *Manifest {
	m := &Manifest{Descriptor: got.Descriptor, Content: got.Content, parsed: got.parsed, came: r.now()}
	// Whatever its size: until it is sealed, this is the only place it is in.
	r.manifests.Add(m.Descriptor.Digest, m)
	for _, d := range m.parsed.names() {
		r.sizes.Add(string(holdKey(in, d.Digest)), d.Size)
	}
	return m
}

// keep makes a manifest durable, with its edges and where it was found. What it
// names is not thereby known to be there too: who may push a manifest may name
// in it what others keep to themselves.
func (r *Registry) keep(ctx context.Context, m *Manifest, in Repository, how string) error {
	if err := r.store.Put(ctx, m.Descriptor, m.Content, m.parsed.digests()...); err != nil {
		return err
	}
	if m.Descriptor.Size > manifestSmall {
		r.manifests.Remove(m.Descriptor.Digest)
	}
	return r.state.db.Batch(func(tx *bolt.Tx) error {
		return putHoldsAs(tx, in, []digest.Digest{m.Descriptor.Digest}, how)
	})
}

// local gives a manifest that is here. Its bytes are checked when they come
// from the disk. The error is layerstore.ErrNotFound when it is not here.
func (r *Registry) local(d digest.Digest) (*Manifest, error) {
	if m, ok := r.manifests.Get(d); ok {
		return m, nil
	}
	info, err := r.store.Stat(d)
	if err != nil {
		return nil, err
	}
	content, err := r.store.ReadAll(d, maxManifest)
	if err != nil || d.Algorithm().FromBytes(content) != d {
		return nil, r.rotten(d, err)
	}
	p, err := parseManifest(info.MediaType, content)
	if err != nil {
		return nil, err
	}
	m := &Manifest{
		Descriptor: specs.Descriptor{MediaType: p.mediaType, Digest: d, Size: int64(len(content))},
		Content:    content, parsed: p, came: info.Sealed,
	}
	if len(content) <= manifestSmall {
		r.remember(m)
	}
	return m, nil
}

// rotten has the store look at a manifest that could not be read, or is not
// what it should be. It is not here when the store took it away.
func (r *Registry) rotten(d digest.Digest, err error) error {
	if err := r.store.Quarantine(d); err != nil {
		return err
	}
	if _, gone := r.store.Stat(d); gone != nil {
		return gone
	}
	if err == nil {
		err = fmt.Errorf("manifest %s read differently twice", d)
	}
	return err
}

// Blob opens a blob of a repository. ctx governs the reads too; the caller
// closes the blob. Errors are *[Error], those of layerstore, or the cause of ctx.
func (r *Registry) Blob(ctx context.Context, in Repository, d digest.Digest) (*layerstore.Blob, Answer, error) {
	b, a, err := r.blob(ctx, in, d)
	if err != nil {
		return nil, a, r.about(in.String()+"@"+d.String(), err)
	}
	r.counts.note(a)
	r.configAsked(d)
	return b, a, nil
}

func (r *Registry) blob(ctx context.Context, in Repository, d digest.Digest) (*layerstore.Blob, Answer, error) {
	return look(ctx, r, asksForBlob(in, d), func(v view) (*layerstore.Blob, Answer, error) {
		return r.blobIn(ctx, v, in, d)
	})
}

func (r *Registry) blobIn(ctx context.Context, v view, in Repository, d digest.Digest) (*layerstore.Blob, Answer, error) {
	if err := r.tells(v, d); err != nil {
		return nil, Answer{}, err
	}
	key := v.key("blob", Reference{Repository: in, Digest: d})
	known, closed := r.unknown.check(key), v.limitedFor(subjectBlob)
	if known == nil {
		known = closed
	}
	began, err := r.allowBlob(ctx, v, d, known)
	if err != nil {
		r.unknown.note(key, err)
		return nil, Answer{}, err
	}
	var source layerstore.Source
	if known == nil || known == closed && len(v.upstream.mirrors) > 0 { // otherwise it may be here, or on its way from elsewhere
		source, known = v.source(d), nil
	}
	size, _ := r.sizes.Get(string(holdKey(in, d)))
	b, err := r.store.Fetch(ctx, specs.Descriptor{Digest: d, Size: size}, source)
	if err != nil {
		if known != nil {
			return nil, Answer{}, known
		}
		r.unknown.note(key, err)
		return nil, Answer{}, err
	}
	outcome := b.Outcome()
	if began && outcome != layerstore.Bypass {
		outcome = layerstore.Miss
	}
	a := Answer{Outcome: outcome.String(), Upstream: in.Registry, Stored: (outcome == layerstore.Miss || outcome == layerstore.Joined) && b.Keeping()}
	if outcome == layerstore.Hit {
		a.Age = max(r.now().Sub(b.Came()), 0)
	}
	return b, a, nil
}

// BlobInfo gives the size of a blob in bytes without fetching it: what is
// neither here nor on its way is asked for by HEAD. Errors as for Blob.
func (r *Registry) BlobInfo(ctx context.Context, in Repository, d digest.Digest) (int64, Answer, error) {
	size, a, err := r.blobInfo(ctx, in, d)
	if err != nil {
		return 0, a, r.about(in.String()+"@"+d.String(), err)
	}
	a.Upstream = in.Registry
	return size, a, nil
}

func (r *Registry) blobInfo(ctx context.Context, in Repository, d digest.Digest) (int64, Answer, error) {
	return look(ctx, r, asksForBlob(in, d), func(v view) (int64, Answer, error) {
		return r.blobInfoIn(ctx, v, in, d)
	})
}

func (r *Registry) blobInfoIn(ctx context.Context, v view, in Repository, d digest.Digest) (int64, Answer, error) {
	if err := r.tells(v, d); err != nil {
		return 0, Answer{}, err
	}
	held, err := r.held(v, d)
	if err != nil {
		return 0, Answer{}, err
	}
	if held {
		if size, a, ok := r.sizeHere(ctx, d); ok {
			return size, a, nil
		}
	}
	key := v.key("blob", Reference{Repository: in, Digest: d})
	if err := r.unknown.check(key); err != nil {
		return 0, Answer{}, err
	}
	if err := v.limitedFor(subjectBlob); err != nil && !v.believesMirrors() {
		return 0, Answer{}, err
	}
	wait, cancel := context.WithTimeoutCause(ctx, answerWait, errNoAnswer)
	defer cancel()
	size, joined, err := ask(wait, r, key, func(ctx context.Context) (int64, error) {
		return r.askBlobSize(ctx, v, d)
	})
	if err != nil {
		r.unknown.note(key, err)
		return 0, Answer{}, err
	}
	if !held {
		if size, a, ok := r.sizeHere(ctx, d); ok {
			return size, a, nil
		}
	}
	return size, Answer{Outcome: missOr(joined)}, nil
}

// sizeHere is the size of a blob that is here or on its way.
func (r *Registry) sizeHere(ctx context.Context, d digest.Digest) (int64, Answer, bool) {
	b, err := r.store.Fetch(ctx, specs.Descriptor{Digest: d}, nil)
	if err != nil {
		return 0, Answer{}, false
	}
	defer b.Close()
	return b.Size(), Answer{Outcome: b.Outcome().String(), Age: max(r.now().Sub(b.Came()), 0)}, true
}

// tagListWait bounds the wait for a list of tags, which is long for a large
// repository.
const tagListWait = 20 * time.Second

// Tags lists all tags of a repository, sorted. Where upstream cannot be
// asked, those that are known here are listed, and the answer is stale. Errors
// are as for Manifest.
func (r *Registry) Tags(ctx context.Context, in Repository) ([]string, Answer, error) {
	tags, a, err := look(ctx, r, wish{Reference{Repository: in}, subjectTags}, func(v view) ([]string, Answer, error) {
		return r.tagsIn(ctx, v, in)
	})
	if err != nil {
		return nil, a, r.about(in.String(), err)
	}
	a.Upstream = in.Registry
	return tags, a, nil
}

func (r *Registry) tagsIn(ctx context.Context, v view, in Repository) ([]string, Answer, error) {
	if _, why, resting := v.upstream.resting(); resting {
		if known := r.knownTags(v); len(known) > 0 {
			return known, Answer{Outcome: OutcomeStale, Detail: "those known here: " + why.Message}, nil
		}
	}
	if err := v.limited(); err != nil {
		return nil, Answer{}, err
	}
	wait, cancel := context.WithTimeoutCause(ctx, tagListWait, errNoAnswer)
	defer cancel()
	tags, joined, err := ask(wait, r, v.key("tags", Reference{Repository: in}), func(ctx context.Context) ([]string, error) {
		return v.upstream.tags(ctx, in.Path)
	})
	var e *Error
	if errors.As(err, &e) && !e.Permanent() {
		if known := r.knownTags(v); len(known) > 0 {
			r.log.Warn("tags known here are listed, upstream was asked in vain", "repository", in.String(), "error", err)
			return known, Answer{Outcome: OutcomeStale, Detail: "those known here: " + err.Error()}, nil
		}
	}
	return tags, Answer{Outcome: missOr(joined)}, err
}

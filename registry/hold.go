package registry

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/layerstore"
)

// A right is held for a repository that is known to hold a digest, never for a
// digest. What is known is what upstream itself has shown in that repository:
// a manifest that it sent, a blob that it sent or told the size of. That a
// manifest names a digest shows nothing.

// held reports whether a digest is known to be in the repository of a view, and
// may be seen through it.
func (r *Registry) held(v view, d digest.Digest) (bool, error) {
	if v.everywhere {
		return true, nil
	}
	if how, ok := r.shown.Get(string(holdKey(v.repository, d))); ok && v.sees(how) {
		return true, nil
	}
	how, err := r.state.hold(v.repository, d)
	return err == nil && v.sees(how), err
}

// show remembers that upstream has just shown a manifest in a repository. Its
// row comes when the manifest is durable, and who asks for it by digest until
// then, as clients do at once, shall not have upstream asked.
func (r *Registry) show(in Repository, d digest.Digest, how string) {
	key := string(holdKey(in, d))
	if before, ok := r.shown.Peek(key); ok && (before == holdPublic || how == holdMirror) {
		return
	}
	r.shown.Add(key, how)
}

// allow decides whether a manifest that is here may be seen in a repository.
// Where nothing is known, upstream is asked by HEAD.
func (r *Registry) allow(ctx context.Context, v view, d digest.Digest) error {
	if held, err := r.held(v, d); err != nil || held {
		return err
	}
	if err := v.limited(); err != nil {
		return err
	}
	_, _, err := ask(ctx, r, v.key("hold", Reference{Repository: v.repository, Digest: d}), func(ctx context.Context) (bool, error) {
		return true, r.askHold(ctx, v, d, subjectManifest)
	})
	return err
}

// allowBlob decides whether a blob may be seen in a repository. closed is why
// upstream is not to be asked now, nil when it is. began tells that the blob is
// on its way because this caller asked.
func (r *Registry) allowBlob(ctx context.Context, v view, d digest.Digest, closed error) (began bool, err error) {
	if held, err := r.held(v, d); err != nil || held {
		return false, err
	}
	if closed != nil && !v.believesMirrors() {
		return false, closed
	}
	began, joined, err := ask(ctx, r, v.key("hold", Reference{Repository: v.repository, Digest: d}), func(ctx context.Context) (bool, error) {
		return r.proveBlob(ctx, v, d)
	})
	return began && !joined, err
}

// proveBlob finds out whether upstream has a blob in the repository of a view.
// What is not here is fetched by that view at once: the answer to the GET is
// the proof, and a HEAD is saved. What is here, or comes by the question of
// another repository, is asked for by HEAD.
func (r *Registry) proveBlob(ctx context.Context, v view, d digest.Digest) (began bool, err error) {
	asksFirst := len(v.upstream.mirrors) > 0 && !v.believesMirrors() // what a mirror sends proves nothing
	if v.upstream.home != nil || asksFirst || r.present(d) {
		return false, r.askHold(ctx, v, d, subjectBlob)
	}
	source, seen := v.witnessed(d)
	b, err := r.store.Fetch(ctx, specs.Descriptor{Digest: d}, source)
	if err == nil {
		b.Close() // the transfer goes on
	}
	switch {
	case seen.how() != "":
		r.noteHoldAs(v.repository, d, seen.how())
		return true, err
	case err != nil && (seen.asked.Load() || ctx.Err() != nil):
		return false, err
	}
	return false, r.askHold(ctx, v, d, subjectBlob)
}

// present reports whether a blob is here or on its way. It does not wait to
// learn more of one that is: what it comes from may be slow.
func (r *Registry) present(d digest.Digest) bool {
	if _, absent := r.store.Stat(d); absent == nil {
		return true
	}
	now, cancel := context.WithCancel(r.ctx)
	cancel()
	b, err := r.store.Fetch(now, specs.Descriptor{Digest: d}, nil)
	if err == nil {
		b.Close()
	}
	return !errors.Is(err, layerstore.ErrNotFound)
}

// askHold asks upstream by HEAD, and notes that it said yes.
func (r *Registry) askHold(ctx context.Context, v view, d digest.Digest, s subject) error {
	if s == subjectBlob {
		_, err := r.askBlobSize(ctx, v, d)
		return err
	}
	if err := v.has(ctx, Reference{Repository: v.repository, Digest: d}); err != nil {
		return err
	}
	r.noteHold(v.repository, d, !v.open)
	return nil
}

func (r *Registry) askBlobSize(ctx context.Context, v view, d digest.Digest) (int64, error) {
	if v.believesMirrors() {
		if size, ok := v.upstream.sizeFromMirrors(ctx, v.repository.Path, d); ok {
			r.noteHoldAs(v.repository, d, holdMirror)
			return size, nil
		}
		if why := v.upstream.closedFor(subjectBlob); why != nil {
			return 0, why
		}
	}
	size, err := v.upstream.blobSize(ctx, v.repository.Path, d)
	if err == nil && !v.everywhere {
		r.noteHold(v.repository, d, !v.open)
	}
	return size, err
}

// noteHold notes what upstream has shown. What cannot be noted is asked again
// next time.
func (r *Registry) noteHold(in Repository, d digest.Digest, public bool) {
	r.noteHoldAs(in, d, howHeld(public))
}

func (r *Registry) noteHoldAs(in Repository, d digest.Digest, how string) {
	if r.homeOf(in) != nil {
		return // its rows come and go with what is pushed; one that is noted by who asked before that would outlive it
	}
	err := r.state.db.Batch(func(tx *bolt.Tx) error { return putHoldsAs(tx, in, []digest.Digest{d}, how) })
	if err != nil {
		r.log.Error("a right that was shown is not noted", "repository", in.String(), "digest", d, "error", err)
	}
}

// noteSeen notes which blobs upstream sent. One that was here before may have
// come from anywhere: who asks for it in this repository has it asked for.
func (r *Registry) noteSeen(in Repository, blobs []specs.Descriptor, seen []*witness) {
	held := map[string][]digest.Digest{}
	for i, b := range blobs {
		if how := seen[i].how(); how != "" {
			held[how] = append(held[how], b.Digest)
		}
	}
	if len(held) == 0 {
		return
	}
	err := r.state.db.Batch(func(tx *bolt.Tx) (err error) {
		for how, digests := range held {
			err = errors.Join(err, putHoldsAs(tx, in, digests, how))
		}
		return err
	})
	if err != nil {
		r.log.Error("what upstream has in a repository is not noted", "repository", in.String(), "error", err)
	}
}

// witness sees whether a source was asked for a blob and had it.
type witness struct {
	asked, answered atomic.Bool
	public          atomic.Bool // it answered without a credential
	mirror          atomic.Bool // a mirror had it
}

// how is the hold that follows from what was seen, "" for none.
func (w *witness) how() string {
	switch {
	case w.answered.Load():
		return howHeld(w.public.Load())
	case w.mirror.Load():
		return holdMirror
	}
	return ""
}

func (w *witness) see(anonymous bool) {
	if anonymous {
		w.public.Store(true)
	}
	w.answered.Store(true)
}

// witnessed is source with a witness.
func (v view) witnessed(d digest.Digest) (layerstore.Source, *witness) {
	w := &witness{}
	return v.upstream.blobSeen(v.repository.Path, d, w), w
}

// showHolds finds out whether upstream has in this repository what an image
// needs and what came from another one, or by another right than it takes: a
// pin is to be served in its own repository while upstream is away, so upstream
// is asked while it can be. An image that nobody needs a right for is for
// everybody, though we fetched it with a credential. It is best effort: what
// cannot be shown now is asked for when a caller asks.
func (r *Registry) showHolds(ctx context.Context, v view, p *plan) {
	if callers, err := r.view(v.repository); err != nil || callers.everywhere || len(p.manifests) == 0 {
		return
	}
	asker, enough := view{repository: v.repository, upstream: v.upstream, open: true}, holdPrivate
	nobody := view{repository: v.repository, upstream: v.upstream.anonymous()}
	if !r.opened(v.upstream) && r.isPublic(ctx, nobody, p.manifests[0].Descriptor.Digest) {
		asker, enough = nobody, holdPublic
	}
	for _, m := range p.manifests {
		r.showHold(ctx, asker, m.Descriptor.Digest, subjectManifest, enough)
	}
	for _, b := range p.blobs {
		r.showHold(ctx, asker, b.Digest, subjectBlob, enough)
	}
}

func (r *Registry) showHold(ctx context.Context, asker view, d digest.Digest, s subject, enough string) {
	how, err := r.state.hold(asker.repository, d)
	if err == nil && (how == holdPublic || how == enough) {
		return
	}
	if _, _, resting := asker.upstream.resting(); resting || ctx.Err() != nil {
		return
	}
	if err := r.askHold(ctx, asker, d, s); err != nil {
		r.log.Debug("upstream has not shown what is here", "repository", asker.repository.String(), "digest", d, "error", err)
	}
}

// isPublic reports whether upstream gives a manifest to nobody in particular.
func (r *Registry) isPublic(ctx context.Context, nobody view, d digest.Digest) bool {
	if how, err := r.state.hold(nobody.repository, d); err == nil && how == holdPublic {
		return true
	}
	return r.askHold(ctx, nobody, d, subjectManifest) == nil
}

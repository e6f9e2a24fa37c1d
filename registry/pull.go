package registry

import (
	"context"
	"errors"
	"sync"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"github.com/imagecache/imagecache/layerstore"
)

// Pull fetches an image for some platforms: none means what the settings say,
// else the machine's own. The tag is asked for anew, unless it is pinned.
// progress, which may be nil, is called by several goroutines, one at a time.
// Errors are those of Manifest and of the store.
func (r *Registry) Pull(ctx context.Context, ref Reference, given []string, progress func(Progress)) (Image, error) {
	v, err := r.operatorView(ref.Repository)
	if err != nil {
		return Image{}, r.about(ref.String(), err)
	}
	wanted, err := wantedOf(v.upstream, given)
	if err != nil {
		return Image{}, err
	}
	report := newReport(ref, progress)
	report.phase(PhaseResolve)
	top, err := r.resolve(ctx, v, ref)
	if err != nil {
		return Image{}, r.about(ref.String(), err)
	}
	_, pinned := r.pinned(ref)
	if err := r.fetchAll(ctx, v, top, wanted, pinned, report); err != nil {
		return Image{}, r.about(ref.String(), err)
	}
	if err := r.settleTag(ref, top.Descriptor.Digest); err != nil {
		return Image{}, r.about(ref.String(), err)
	}
	report.phase(PhaseDone)
	r.store.Touch(top.Descriptor.Digest)
	return r.imageOf(ref.named(), top, wanted)
}

// settleTag returns when the row by which a tag means d is durable: it is
// written in the background, and who pulled is told that all is done.
func (r *Registry) settleTag(ref Reference, d digest.Digest) error {
	key := ref.String()
	t, ok := r.tagged(key)
	if !ok || t.row.Digest != d {
		return nil // pinned, or moved on
	}
	defer r.turns.take(key)()
	written, err := r.state.tag(key)
	if err != nil || written.Digest == d {
		return err
	}
	return r.state.db.Batch(func(tx *bolt.Tx) error {
		if now, ok := r.tagged(key); !ok || now.row.Digest != d {
			return nil
		}
		return put(tx, bucketTags, key, t.row)
	})
}

// named is the reference as it is listed: by its tag where it has one.
func (r Reference) named() Reference {
	if r.Tag != "" {
		r.Digest = ""
	}
	return r
}

// resolve gives the manifest that a reference means, asking upstream for the
// tag however fresh its row is. Where upstream cannot be asked, the row answers.
func (r *Registry) resolve(ctx context.Context, v view, ref Reference) (*Manifest, error) {
	if ref.Digest != "" {
		m, _, err := r.byDigest(ctx, v, ref.Digest)
		return m, err
	}
	if pin, ok := r.pinned(ref); ok {
		m, _, err := r.byDigest(ctx, v, pin.Digest)
		return m, err
	}
	return r.resolveTag(ctx, v, ref)
}

func (r *Registry) resolveTag(ctx context.Context, v view, ref Reference) (*Manifest, error) {
	if v.upstream.home != nil {
		m, _, err := r.atHome(ctx, v, ref)
		return m, err
	}
	known, ok := r.tagged(ref.String())
	if !ok {
		m, _, err := r.firstTime(ctx, v, ref)
		return m, err
	}
	wait, cancel := context.WithTimeoutCause(ctx, answerWait, errNoAnswer)
	defer cancel()
	now, _, err := ask(wait, r, v.key("tag", ref), func(ctx context.Context) (tag, error) {
		return r.refresh(ctx, v, ref, known)
	})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		r.log.Warn("what is cached is taken, upstream was asked in vain", "reference", ref.String(), "error", err)
		now = known
	}
	m, _, err := r.byDigest(ctx, v, now.row.Digest)
	return m, err
}

// fetchAll brings everything of an image for the wanted platforms, durably, but
// for layers that need not be, because they stand here unpacked. A lease keeps
// what is here from being evicted before all is.
func (r *Registry) fetchAll(ctx context.Context, v view, top *Manifest, wanted []string, pinned bool, report *report) error {
	lease := r.store.Lease()
	defer lease.Release()
	lease.Hold(append(top.parsed.digests(), top.Descriptor.Digest)...)
	p, err := r.remotePlan(ctx, v, top, wanted)
	if err != nil {
		return err
	}
	p.blobs = r.unfetched(p, pinned)
	report.expect(top, p)
	fetches, ctx := errgroup.WithContext(ctx)
	fetches.SetLimit(fetchesAtOnce)
	seen := make([]*witness, len(p.blobs))
	for i, b := range p.blobs {
		var source layerstore.Source
		source, seen[i] = v.witnessed(b.Digest)
		fetches.Go(func() error {
			err := r.store.Ensure(ctx, b, source, func(done, _ int64) { report.bytes(b, done) })
			if err != nil {
				return r.about(v.repository.String()+"@"+b.Digest.String(), err)
			}
			report.blob(b)
			return nil
		})
	}
	err = fetches.Wait()
	r.noteSeen(v.repository, p.blobs, seen)
	if err == nil {
		for _, m := range p.manifests {
			r.pass(v, m)
		}
	}
	return err
}

// report turns what happens to single blobs into a Progress.
type report struct {
	to func(Progress)

	mu    sync.Mutex // guards what follows, and that to is called by one at a time
	state Progress
	done  map[string]int64 // bytes by digest
}

func newReport(ref Reference, to func(Progress)) *report {
	if to == nil {
		to = func(Progress) {}
	}
	return &report{to: to, state: Progress{Reference: ref.String()}, done: map[string]int64{}}
}

func (r *report) phase(p string) {
	r.change(func() { r.state.Phase = p })
}

func (r *report) expect(top *Manifest, p *plan) {
	r.change(func() {
		r.state.Phase, r.state.Digest = PhaseFetch, top.Descriptor.Digest.String()
		r.state.BlobsTotal = len(p.blobs)
		for _, b := range p.blobs {
			r.state.BytesTotal += b.Size
		}
	})
}

func (r *report) bytes(b specs.Descriptor, done int64) {
	r.change(func() {
		r.state.BytesDone += done - r.done[b.Digest.String()]
		r.done[b.Digest.String()] = done
	})
}

func (r *report) blob(b specs.Descriptor) {
	r.change(func() { r.state.BlobsDone++ })
}

func (r *report) change(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	r.to(r.state)
}

// cancelled reports whether err is the caller's leaving, not a failure.
func cancelled(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, context.Canceled)
}

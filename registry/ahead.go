package registry

import (
	"slices"
	"sync"
	"time"

	"github.com/containerd/platforms"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Read-ahead: whoever gets the manifest of an image will ask for its config and
// its layers next, so they begin to flow before that, through the same view:
// nothing is fetched that this caller could not have, and what it asks for
// meanwhile is the same transfer. It takes what clients leave: a blob is begun
// ahead only while an upstream sends fewer than aheadMost bodies, and a client's
// own question never waits for it. A manifest alone is never fetched ahead:
// which image of an index is wanted is the client's to say, and Docker Hub
// counts manifests.

const (
	// aheadMost is up to how many bodies an upstream is kept busy with: as many
	// as skopeo asks for by itself. On a narrow line more would only slow down
	// the layer that is unpacked first.
	aheadMost = 6
	// aheadQueued is how many blobs of an upstream wait to be begun. Those of an
	// image that finds no room there come when they are asked for.
	aheadQueued = 1024
	// aheadLook is how long a queue waits at most before it looks again whether
	// it may go on.
	aheadLook = time.Second
)

// ahead are the blobs of one upstream that wait to be begun, in order.
type ahead struct {
	mu      sync.Mutex // guards what follows
	queue   []aheadBlob
	running bool
}

type aheadBlob struct {
	view view
	blob specs.Descriptor
}

// add queues blobs, all or none. start says that nobody works on the queue yet.
func (a *ahead) add(v view, blobs []specs.Descriptor) (start bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(blobs) == 0 || len(a.queue)+len(blobs) > aheadQueued {
		return false
	}
	for _, b := range blobs {
		a.queue = append(a.queue, aheadBlob{v, b})
	}
	start = !a.running
	a.running = true
	return start
}

// next takes the first one, or ends the work.
func (a *ahead) next() (b aheadBlob, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) == 0 {
		a.running, a.queue = false, nil
		return b, false
	}
	b, a.queue = a.queue[0], a.queue[1:]
	return b, true
}

// aheadOf is the queue of an upstream.
func (p *passages) aheadOf(u *upstream) *ahead {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ahead[u.name] == nil {
		p.ahead[u.name] = &ahead{}
	}
	return p.ahead[u.name]
}

// readAhead has blobs begun that are not here. It waits for nothing.
func (r *Registry) readAhead(v view, blobs ...specs.Descriptor) {
	blobs = slices.DeleteFunc(slices.Clone(blobs), func(b specs.Descriptor) bool { return isForeign(b) || r.present(b.Digest) })
	queue := r.passages.aheadOf(v.upstream)
	if !queue.add(v, blobs) {
		return
	}
	r.background(func() {
		for b, ok := queue.next(); ok; b, ok = queue.next() {
			r.beginAhead(b)
		}
	})
}

// beginAhead begins one blob when its turn comes, if it may still be begun.
func (r *Registry) beginAhead(b aheadBlob) {
	u := b.view.upstream
	for len(u.bodies) >= aheadMost {
		select {
		case <-u.freed:
		case <-time.After(aheadLook):
		case <-r.ctx.Done():
			return
		}
	}
	if r.ctx.Err() != nil || !r.mayAhead(u, b.blob.Size) || r.present(b.blob.Digest) {
		return
	}
	opened, _, err := r.blobIn(r.ctx, b.view, b.view.repository, b.blob.Digest)
	if err != nil {
		r.log.Debug("not read ahead", "repository", b.view.repository.String(), "digest", b.blob.Digest, "error", err)
		return
	}
	opened.Close() // the transfer goes on
	r.configAsked(b.blob.Digest)
}

// mayAhead reports whether size bytes may be fetched that nobody has asked for yet.
func (r *Registry) mayAhead(u *upstream, size int64) bool {
	if u.options.NoReadAhead || !r.store.Spare(size) {
		return false
	}
	if _, _, resting := u.resting(); resting {
		return false
	}
	return !u.scarce()
}

// concerns reports whether a platform is among those that an upstream's images
// are fetched for. One that is not known is.
func concerns(u *upstream, p specs.Platform) bool {
	wanted, err := wantedOf(u, nil)
	if err != nil || p.OS == "" || slices.Contains(wanted, PlatformAll) {
		return true
	}
	return slices.ContainsFunc(wanted, func(w string) bool {
		parsed, err := platforms.Parse(w)
		return err == nil && platforms.Only(parsed).Match(p)
	})
}

// notePlatforms remembers what an index says its images are for: then their
// layers need not wait for the config that tells the same.
func (p *passages) notePlatforms(index *Manifest) {
	for _, c := range index.parsed.manifests {
		if c.Platform != nil {
			p.platforms.Add(c.Digest, *c.Platform)
		}
	}
}

// flow has an image's config begin to flow, and its layers with it where the
// platform is known to be wanted. settled says that nothing is left to decide
// about the layers.
func (r *Registry) flow(v view, m *Manifest) (settled bool) {
	platform, known := r.passages.platforms.Get(m.Descriptor.Digest)
	switch {
	case v.upstream.options.NoReadAhead || known && !concerns(v.upstream, platform):
		return true
	case known:
		r.readAhead(v, r.notStanding(m, m.parsed.blobs())...)
		return true
	}
	r.readAhead(v, *m.parsed.config)
	return false
}

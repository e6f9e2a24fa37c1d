package registry

import (
	"context"
	"errors"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
)

const (
	// passedMost is how many images are remembered as told of, or as waiting for
	// their config: as many as a busy node has, many times over.
	passedMost = 4096
	// imagesInMemory is how many images' layers are kept to be looked up, of
	// those whose manifests have at most imageSmall: 16 MiB of memory at most.
	imagesInMemory = 64
	imageSmall     = 256 << 10
	// passagesMost is how many images may be on their way through at once. Who
	// comes beyond that is told of at its next request.
	passagesMost = 64
	// configWait bounds the wait for a config: it is small, and a flight that
	// sends nothing ends sooner.
	configWait = 5 * time.Minute
	// chainWait bounds the wait of [Registry.Chain] for configs under way. They
	// have a few KiB; containerd, which waits for us, could fetch the layer.
	chainWait = 2 * time.Second
)

// passages are images that pass through: a manifest was given to somebody, or
// an image was fetched for the operator. Each one's config is read as soon as it
// is here, its chains are put into the index, and who asked for it
// (Options.Passed) is told. An image passes once in the life of a process.
type passages struct {
	tell    func(RootFS)
	told    *lru.Cache[digest.Digest, struct{}] // manifests that passed, or are passing
	images  *lru.Cache[digest.Digest, RootFS]   // by manifest
	waiting *lru.Cache[digest.Digest, passage]  // by config, which nobody asked for yet
	// platforms are those of manifests, as the indexes that name them say.
	platforms *lru.Cache[digest.Digest, specs.Platform]
	places    chan struct{}
	gone      goneChains

	mu    sync.Mutex // guards what follows
	now   map[digest.Digest]chan struct{}
	ahead map[string]*ahead // by upstream
}

// passage is one image and the view through which it was seen. Thousands may
// wait for their configs, so it does not hold the manifest.
type passage struct {
	view     view
	manifest digest.Digest
	settled  bool // whether its layers are read ahead was decided
}

func newPassages(tell func(RootFS)) (*passages, error) {
	p := &passages{tell: tell, places: make(chan struct{}, passagesMost), now: map[digest.Digest]chan struct{}{}, ahead: map[string]*ahead{}}
	p.gone.some = make(chan struct{}, 1)
	var failed [4]error
	p.told, failed[0] = lru.New[digest.Digest, struct{}](passedMost)
	p.images, failed[1] = lru.New[digest.Digest, RootFS](imagesInMemory)
	p.waiting, failed[2] = lru.New[digest.Digest, passage](passedMost)
	p.platforms, failed[3] = lru.New[digest.Digest, specs.Platform](passedMost)
	return p, errors.Join(failed[:]...)
}

// underWay are the images on their way now; each channel is closed when it has passed.
func (p *passages) underWay() (all []chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, done := range p.now {
		all = append(all, done)
	}
	return all
}

// begin takes a place for an image. ok is false when it is passing already, or
// there is no place.
func (p *passages) begin(d digest.Digest) (end func(), ok bool) {
	select {
	case p.places <- struct{}{}:
	default:
		return nil, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now[d] != nil {
		<-p.places
		return nil, false
	}
	done := make(chan struct{})
	p.now[d] = done
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.now, d)
		close(done)
		<-p.places
	}, true
}

func waitFor(ctx context.Context, all []chan struct{}) error {
	limit := time.NewTimer(chainWait)
	defer limit.Stop()
	for _, done := range all {
		select {
		case <-done:
		case <-limit.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// evicted forgets images whose manifests went.
func (p *passages) evicted(gone []digest.Digest) {
	for _, d := range gone {
		p.told.Remove(d)
		p.images.Remove(d)
	}
	p.gone.add(gone)
}

// removed forgets all that is in memory: somebody removed an image by hand.
func (p *passages) removed() {
	p.told.Purge()
	p.images.Purge()
}

// pass lets an image pass, unless it did. It costs its caller a look into memory.
func (r *Registry) pass(v view, m *Manifest) {
	if r.passages.told.Contains(m.Descriptor.Digest) {
		return
	}
	index := isIndex(m.Descriptor.MediaType)
	if !index && !hasRootFS(m) {
		return
	}
	if known, _ := r.passages.told.ContainsOrAdd(m.Descriptor.Digest, struct{}{}); known {
		return
	}
	if index {
		r.passages.notePlatforms(m)
		return
	}
	r.letPass(passage{view: v, manifest: m.Descriptor.Digest})
}

func (r *Registry) letPass(p passage) {
	end, ok := r.passages.begin(p.manifest)
	if !ok {
		r.passages.told.Remove(p.manifest) // it is told of at its next request
		return
	}
	r.background(func() {
		defer end()
		if err := r.passThrough(p); err != nil && r.ctx.Err() == nil {
			r.passages.told.Remove(p.manifest)
			r.log.Debug("image not looked at", "digest", p.manifest, "error", err)
		}
	})
}

// passThrough waits for the config of an image, where it is here or coming, and
// tells of the image. Otherwise it is told of when somebody asks for the config.
func (r *Registry) passThrough(p passage) error {
	ctx, cancel := context.WithTimeout(r.ctx, configWait)
	defer cancel()
	m, err := r.local(p.manifest)
	if err != nil {
		return err
	}
	config := *m.parsed.config
	p.settled = p.settled || r.flow(p.view, m)
	if other, ok := r.passages.waiting.Peek(config.Digest); ok && other.manifest != p.manifest {
		r.passages.told.Remove(other.manifest) // two with one config: that one is told of at its next request
	}
	r.passages.waiting.Add(config.Digest, p)
	content, err := r.readConfig(ctx, config)
	if errors.Is(err, layerstore.ErrNotFound) {
		return nil
	}
	r.passages.waiting.Remove(config.Digest)
	if err != nil {
		return err
	}
	r.tellOf(p, m, content)
	return nil
}

// readConfig reads a config that is here, which is no use of it, or on its way.
func (r *Registry) readConfig(ctx context.Context, config specs.Descriptor) ([]byte, error) {
	content, err := r.store.ReadAll(config.Digest, maxManifest)
	if !errors.Is(err, layerstore.ErrNotFound) {
		return content, err
	}
	b, err := r.store.Fetch(ctx, config, nil)
	if err != nil {
		return nil, err
	}
	return readSmall(b)
}

// tellOf puts an image into the index, has its layers flow, and tells of it.
func (r *Registry) tellOf(p passage, m *Manifest, config []byte) {
	image, err := rootFSOf(p.view.repository, m, config)
	if err != nil { // and it will be so at its next request
		r.log.Debug("image without a root filesystem", "digest", p.manifest, "error", err)
		return
	}
	r.passages.hold(image)
	if err := r.index(image); err != nil {
		r.log.Warn("chains of an image are not known until its next request", "digest", p.manifest, "error", err)
		r.passages.told.Remove(p.manifest)
	}
	if !concerns(p.view.upstream, image.Platform) {
		return
	}
	if !p.settled {
		r.readAhead(p.view, r.notStanding(m, m.parsed.layers)...)
	}
	if r.passages.tell != nil {
		if p.view.caller != "" { // which only who is told now may use, and no later asker
			image.seenBy = &p.view
		}
		r.passages.tell(image)
	}
}

// hold keeps an image in memory, if it is small.
func (p *passages) hold(image RootFS) {
	if image.Manifest.Size <= imageSmall {
		p.images.Add(image.Manifest.Digest, image)
	}
}

// configAsked goes on with an image whose config somebody asked for just now.
func (r *Registry) configAsked(d digest.Digest) {
	if p, ok := r.passages.waiting.Peek(d); ok && r.passages.waiting.Remove(d) {
		r.letPass(p)
	}
}

package registry

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"

	"github.com/imagecache/imagecache/layerstore"
)

const (
	// Manifests kept in memory: a manifest is asked for by every start of an
	// image, and most have 2 KiB. Larger ones than manifestSmall are read from
	// the store each time, so that the memory stays below 16 MiB.
	manifestsInMemory = 512
	manifestSmall     = 32 << 10

	// Sizes of blobs that manifests named lately: a source that announces
	// another is found out before it sends. They count for the repository of
	// the manifest alone, so that nobody can spoil another's blob by naming it.
	sizesInMemory = 16384

	// A question to upstream outlives the caller who asked it, by at most this:
	// a slow upstream shall still make the next caller happy.
	askingMost = 30 * time.Second
	// A caller who has nothing cached waits at most this long for a manifest:
	// containerd, kubelet and people give up on a silent mirror soon after.
	answerWait = 4500 * time.Millisecond
	// A caller who has a stale answer waits this long for a better one.
	defaultStaleWait = time.Second
	// After a question that failed, a stale tag is not asked for again for this long.
	failedRest = 5 * time.Second
	// A confirmation of a tag is written when the last one written is this old:
	// what a restart may take from the age of a tag, against a write for each.
	confirmEvery = 10 * time.Minute
	// How often the converge loop looks at pins: as often as Diego's BBS did.
	convergeEvery = 30 * time.Second
	// Blobs that one pull fetches side by side: more than containerd's three,
	// few enough for a small registry.
	fetchesAtOnce = 4
)

// Options of a registry. Store and Path are needed; other zero values are the
// documented defaults.
type Options struct {
	Store     *layerstore.Store
	Path      string            // of registry.db
	Upstreams []UpstreamOptions // on top of [WellKnown]; the same name replaces
	// Open is the access of upstreams that do not say: true means open to all
	// who reach us, for a daemon that listens on loopback only.
	Open bool
	// Ruled: rules of who calls decide which repository may be seen. Then a
	// digest is given in a repository that is known to hold it alone, and to
	// who was named by a rule ([WithRight]) as if the upstream were open.
	Ruled     bool
	StaleWait time.Duration // default 1 s
	// Lockfile is the path of the lockfile that is followed, by who calls Apply:
	// pins that came from it are not changed by hand. "": none is.
	Lockfile string
	// Passed, where it is set, is told of images as they pass: once for each in
	// the life of this process, when its manifest and its config are here because
	// a client pulled it or because a pull or a pin was done, if its platform is
	// one of those that its upstream is set up for. Layers may still be on their
	// way. It is called by several goroutines, none of which a client waits for;
	// while it runs, it holds one of the 64 places for images that pass.
	Passed func(RootFS)
	// Unpacked knows which layers lie here unpacked; nil: none does. DropLayers,
	// one of DropNever (default), DropUnpinned and DropAll, says which of them are
	// not kept compressed, once nobody has asked for that for DropAfter (default 10
	// minutes) and upstream confirms that they can be fetched again.
	Unpacked   Unpacked
	DropLayers string
	DropAfter  time.Duration

	UserAgent string
	Log       *slog.Logger     // default: nothing is logged
	Now       func() time.Time // default time.Now
}

// Registry answers for references. All methods may be called in parallel.
type Registry struct {
	store     *layerstore.Store
	state     *state
	routes    *routes
	open      bool
	allOpen   bool // every upstream is
	ruled     bool
	staleWait time.Duration
	log       *slog.Logger
	now       func() time.Time
	started   time.Time

	manifests *lru.Cache[digest.Digest, *Manifest]
	sizes     *lru.Cache[string, int64]  // by holdKey
	shown     *lru.Cache[string, string] // holds of manifests by holdKey, from before their rows are written
	asking    singleflight.Group         // questions to upstreams, by what is asked
	unknown   absences
	rights    *rights
	own       ownRefusals
	counts    counts
	repairs   repairs
	unkept    unkept
	sendings  sendings
	pushers   pushers
	turns     turns
	unnamed   unnamedNotes
	passages  *passages
	dropping  *dropping

	ctx     context.Context // ends when the registry closes; work without a caller lives under it
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	desired *desired
	// referrersKnown is what upstreams last said of referrers, by question.
	referrersKnown *lru.Cache[string, referrerList]
	listed         chan struct{} // one token when index.json is out of date
	lacks          chan struct{} // one token when the converge loop has something to do

	mu   sync.RWMutex // guards tags and pins; no I/O under it
	tags map[string]*tag
	pins map[string]pinRow

	pinning sync.Mutex   // held while a pin's row and root are changed together
	pushing sync.RWMutex // held for reading while something enters a home, for writing while something leaves one
	listing sync.Mutex   // held while index.json is written: the latest rows are to be written last
}

// counts are for Status.
type counts struct {
	gets, hits, misses, joined, stale atomic.Int64
}

func (c *counts) note(a Answer) {
	c.gets.Add(1)
	switch a.Outcome {
	case OutcomeHit:
		c.hits.Add(1)
	case OutcomeMiss:
		c.misses.Add(1)
	case OutcomeJoined:
		c.joined.Add(1)
	case OutcomeStale:
		c.stale.Add(1)
	}
}

// New opens the state and begins to converge. It needs no network. Close ends it.
func New(o Options) (*Registry, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	r := &Registry{
		store: o.Store, open: o.Open, ruled: o.Ruled, staleWait: orElse(o.StaleWait, defaultStaleWait),
		log: o.Log, now: o.Now, started: o.Now(),
		listed: make(chan struct{}, 1), lacks: make(chan struct{}, 1), desired: newDesired(),
	}
	var err error
	r.routes, err = newRoutes(o.Upstreams, upstreamEnv{userAgent: o.UserAgent, log: o.Log, now: o.Now, patience: r.staleWait})
	if err != nil {
		return nil, err
	}
	r.allOpen = r.opensAll()
	r.state, err = openState(o.Path, o.Log, func() (rescued, error) { return rescue(o.Store, o.Log, o.Now()) })
	if err != nil {
		r.routes.close()
		return nil, err
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	if err := r.prepare(o); err != nil {
		r.cancel()
		r.routes.close()
		return nil, errors.Join(err, r.state.db.Close())
	}
	r.state.db.Settle()
	r.store.OnEvict(r.evicted)
	r.store.RootsSet()
	r.dropBrokenImports()
	for _, task := range []func(){r.converge, r.writeIndex, r.keepLater, r.repairing, r.sweepHome, r.forgetChains, r.dropLayers} {
		r.tasks.Go(task)
	}
	return r, nil
}

// prepare makes what stands on routes and state.
func (r *Registry) prepare(o Options) (err error) {
	r.unknown.now = o.Now
	r.watchOwn()
	r.desired.lockfile = o.Lockfile
	r.unkept.some = make(chan struct{}, 1)
	if r.manifests, err = lru.New[digest.Digest, *Manifest](manifestsInMemory); err != nil {
		return err
	}
	if r.sizes, err = lru.New[string, int64](sizesInMemory); err != nil {
		return err
	}
	if r.shown, err = lru.New[string, string](manifestsInMemory); err != nil {
		return err
	}
	if r.referrersKnown, err = lru.New[string, referrerList](referrerLists); err != nil {
		return err
	}
	if r.rights, err = newRights(r.state, r.routes, o.Now); err != nil {
		return err
	}
	if r.passages, err = newPassages(o.Passed); err != nil {
		return err
	}
	if r.dropping, err = newDropping(o); err != nil {
		return err
	}
	r.routes.settle(r)
	return r.load()
}

// load reads all rows and makes the store's roots agree with the pins.
func (r *Registry) load() error {
	r.tags, r.pins = map[string]*tag{}, map[string]pinRow{}
	err := each(r.state, bucketTags, func(key string, row tagRow) error {
		r.tags[key] = newTag(row)
		return nil
	})
	if err != nil {
		return err
	}
	err = each(r.state, bucketPins, func(key string, row pinRow) error {
		r.pins[key] = row
		return nil
	})
	if err != nil {
		return err
	}
	if err := r.choosePlatforms(); err != nil {
		return err
	}
	return r.align()
}

// Close waits for what is being written and ends the rest. The store is its
// opener's to close, afterwards.
func (r *Registry) Close() error {
	r.cancel()
	r.tasks.Wait()
	err := r.writeIndexNow()
	r.routes.close()
	return errors.Join(err, r.state.db.Close())
}

// background runs work that outlives its caller. After Close it is not begun.
func (r *Registry) background(work func()) {
	if r.ctx.Err() == nil {
		r.tasks.Go(work)
	}
}

// ask runs one question to upstream for all who ask the same at once. The work
// has its own time; each caller waits as long as its ctx says. joined tells
// whether another caller's question was followed.
func ask[T any](ctx context.Context, r *Registry, key string, work func(context.Context) (T, error)) (result T, joined bool, err error) {
	first := false
	done := r.asking.DoChan(key, func() (any, error) {
		first = true
		ctx, cancel := context.WithTimeout(r.ctx, askingMost)
		defer cancel()
		return work(ctx)
	})
	select {
	case got := <-done:
		value, _ := got.Val.(T)
		return value, !first, got.Err
	case <-ctx.Done():
		return result, false, context.Cause(ctx)
	}
}

// nudge leaves one token.
func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

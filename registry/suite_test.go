package registry

import (
	"context"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry/registrytest"
)

// clock is a clock that only the test moves.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// patience bounds what is not to happen because the machine that tests is busy.
const patience = time.Minute

// cache is a registry on a store, in front of one upstream that is called
// registry.test. The store collects only when it is told to.
type cache struct {
	*Registry
	t        testing.TB
	root     string
	clock    *clock
	upstream *registrytest.Registry
	options  UpstreamOptions
	more     []UpstreamOptions // besides
	open     bool
	lockfile string
	passed   func(RootFS)
	unpacked Unpacked
	drops    string
	stale    time.Duration
	stall    time.Duration // of a transfer
	free     atomic.Int64  // bytes of the disk, of which 1 MB is to be kept free
	stop     func()
}

func newCache(t testing.TB, upstream *registrytest.Registry, change func(*cache)) *cache {
	t.Helper()
	c := &cache{
		t: t, root: t.TempDir(), clock: newClock(), upstream: upstream, open: true, stale: patience, stall: patience,
		// Tests say what is asked for; those of read-ahead turn it on.
		options: UpstreamOptions{Name: "registry.test", URL: upstream.URL(), TagTTL: time.Minute, NoReadAhead: true},
	}
	c.free.Store(1e9)
	if change != nil {
		change(c)
	}
	c.start()
	t.Cleanup(func() { c.stop() })
	return c
}

func (c *cache) start() {
	c.t.Helper()
	store, err := layerstore.Open(layerstore.Options{
		Root: c.root, Now: c.clock.now, Describe: Describe, StallAfter: c.stall, LookEvery: -1,
		MinFree: layerstore.Reserve{Bytes: 1e6}, Disk: func() (capacity, free uint64, err error) { return 1e9, uint64(c.free.Load()), nil },
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.Registry, err = New(Options{
		Store: store, Path: filepath.Join(c.root, "registry.db"), Upstreams: append([]UpstreamOptions{c.options}, c.more...),
		Open: c.open, StaleWait: c.stale, Now: c.clock.now, Lockfile: c.lockfile, Passed: c.passed, Unpacked: c.unpacked, DropLayers: c.drops,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	r := c.Registry
	c.stop = sync.OnceFunc(func() {
		if err := r.Close(); err != nil {
			c.t.Error(err)
		}
		if err := store.Close(); err != nil {
			c.t.Error(err)
		}
	})
}

func (c *cache) restart() {
	c.t.Helper()
	c.stop()
	c.start()
}

// settled waits until all that outlives its caller is written.
func (c *cache) settled(refs ...digest.Digest) {
	c.t.Helper()
	eventually(c.t, func() bool {
		for _, d := range refs {
			if _, err := c.store.Stat(d); err != nil {
				return false
			}
		}
		return true
	})
}

func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to pass")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func reference(t testing.TB, s string) Reference {
	t.Helper()
	ref, err := ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func (c *cache) get(ref string) (*Manifest, Answer) {
	c.t.Helper()
	m, a, err := c.Manifest(context.Background(), reference(c.t, ref))
	if err != nil {
		c.t.Fatalf("%s: %v", ref, err)
	}
	if got := digest.FromBytes(m.Content); got != m.Descriptor.Digest {
		c.t.Fatalf("%s: content hashes to %s, not %s", ref, got, m.Descriptor.Digest)
	}
	return m, a
}

func (c *cache) expect(ref string, want digest.Digest, outcome string) Answer {
	c.t.Helper()
	m, a := c.get(ref)
	if m.Descriptor.Digest != want {
		c.t.Errorf("%s answers %s, want %s", ref, m.Descriptor.Digest, want)
	}
	if a.Outcome != outcome {
		c.t.Errorf("%s answered as %q (%s), want %q", ref, a.Outcome, a.Detail, outcome)
	}
	return a
}

func (c *cache) refused(ref string, want Code) *Error {
	c.t.Helper()
	_, _, err := c.Manifest(context.Background(), reference(c.t, ref))
	return wantCode(c.t, err, want)
}

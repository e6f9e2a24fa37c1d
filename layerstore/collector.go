package layerstore

import (
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// Once a minute it is looked whether the disk, which others fill as well,
	// has room: one system call.
	defaultLookEvery = time.Minute
	// Once an hour it is looked for what is too old: ages are in days.
	ageEvery = time.Hour
)

// collector collects by itself: when a commit goes over a limit, and every now
// and then.
type collector struct {
	turn   chan struct{} // held by the collection that runs
	nudged chan struct{} // one token when a limit may have been crossed
	wishes wishes
	rooted chan struct{} // closed when roots are set; see Options.AwaitRoots
	root   sync.Once

	mu      sync.Mutex // guards onEvict
	onEvict []func([]digest.Digest)
}

func newCollector() *collector {
	return &collector{turn: make(chan struct{}, 1), nudged: make(chan struct{}, 1), rooted: make(chan struct{})}
}

func (c *collector) nudge() {
	select {
	case c.nudged <- struct{}{}:
	default:
	}
}

// OnEvict has f called with the digests of what was evicted, after their rows
// and files are gone, for as long as the store is open. f must be quick and
// must not call the store: it is called where blobs are sealed.
func (s *Store) OnEvict(f func(gone []digest.Digest)) {
	s.collector.mu.Lock()
	defer s.collector.mu.Unlock()
	s.collector.onEvict = append(s.collector.onEvict, f)
}

func (s *Store) tellEvicted(gone []digest.Digest) {
	s.collector.mu.Lock()
	told := s.collector.onEvict
	s.collector.mu.Unlock()
	for _, f := range told {
		f(gone)
	}
}

// Evicted is how many blobs, and bytes of them, collections took since Open.
func (s *Store) Evicted() (blobs, bytes int64) {
	return s.counts.evictions.Load(), s.counts.evicted.Load()
}

// noteGrowth looks at the limits after a commit.
func (s *Store) noteGrowth() {
	if s.overfull() {
		s.collector.nudge()
	}
}

// overfull reports whether the limit of size or of free space is passed. A disk
// that cannot be asked counts as having room: the next commit says what is wrong.
func (s *Store) overfull() bool {
	if most := s.limits.size; most > 0 && s.taken() > most {
		return true
	}
	if s.limits.free == (Reserve{}) {
		return false
	}
	capacity, free, err := s.disk()
	return err == nil && int64(free) < s.limits.free.of(capacity)
}

// taken is how many bytes count in the limit of size.
func (s *Store) taken() int64 { return s.counts.bytes.Load() + s.forms().Bytes() + s.idleBytes() }

// RootsSet says that all roots are set which were promised to anybody; see
// [Options.AwaitRoots]. It may be called again.
func (s *Store) RootsSet() { s.collector.root.Do(func() { close(s.collector.rooted) }) }

// collectAlways runs until the store closes.
func (s *Store) collectAlways(every time.Duration) {
	select {
	case <-s.collector.rooted:
	case <-s.ctx.Done():
		return
	}
	s.collector.nudge() // the limits may be new
	look, tidy := time.NewTicker(every), time.NewTicker(ageEvery)
	defer look.Stop()
	defer tidy.Stop()
	var aged time.Time
	var told bool
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.collector.nudged:
		case <-look.C:
		case <-tidy.C:
			s.tidy()
		}
		if again := s.makeRoom(); again {
			s.restAfterUse()
			s.collector.nudge()
			continue
		}
		if s.limits.none() {
			continue
		}
		now := s.now()
		tooOld := s.limits.age > 0 && now.Sub(aged) >= ageEvery
		if !tooOld && !s.overfull() {
			told = false
			continue
		}
		if tooOld {
			aged = now
		}
		told = s.collectOnce(told)
	}
}

// collectOnce runs one collection and, where it fell short, rests: every
// commit would begin another that can do no more. It reports whether the log
// was told of that, which it is once.
func (s *Store) collectOnce(told bool) bool {
	c, err := s.Collect(s.ctx, CollectOptions{})
	if s.ctx.Err() != nil {
		return told
	}
	if err != nil {
		s.log.Error("collection failed", "error", err)
	}
	if c.Short == 0 && err == nil {
		return false
	}
	if c.Short > 0 && !told && !c.passing() {
		told = true
		s.log.Warn("the store is over its limits, and what is left must stay", "bytes", c.Short, "images", len(c.Kept))
	}
	s.restAfterUse()
	if c.passing() {
		s.collector.nudge()
	}
	return told
}

// restAfterUse waits until what was in use a moment ago may go.
func (s *Store) restAfterUse() {
	rest := time.NewTimer(justUsed)
	defer rest.Stop()
	select {
	case <-rest.C:
	case <-s.ctx.Done():
	}
}

// passing reports whether something stayed that will not have to for long, and
// of whose end nobody tells.
func (c Collection) passing() bool {
	return slices.ContainsFunc(c.Kept, func(k Stay) bool { return k.Why != ByRoot && k.Why != ByLease })
}

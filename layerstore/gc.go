package layerstore

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// Collection begins when the blobs take more than Options.MaxSize and goes
	// on until they take nine tenths of it: the next few pulls shall find room
	// without another collection, and no more shall go than that takes.
	lowMark = 0.9
	// Collection begins when less than Options.MinFree is free and goes on until
	// a fifth more than that is: other programs write to the disk as well.
	freeMark = 1.2
	// What was used within the last 5 s is not taken: a client that pulls asks
	// for the next blob of an image a moment after the last, and for the tail of
	// one that broke a few seconds later.
	justUsed = 5 * time.Second
	// Who comes to use an image while it is about to go keeps it, and others go
	// in its place. More attempts than this find more of the same.
	roundsMost = 3
)

// Reserve is an amount of disk: a number of bytes, or a part of the file
// system. Where both are set the larger counts. The zero value is none.
type Reserve struct {
	Bytes    int64
	Fraction float64 // of the file system's size: 0.05 is 5 %
}

// of is the reserve in bytes, on a file system of that size.
func (r Reserve) of(capacity uint64) int64 {
	return max(r.Bytes, int64(r.Fraction*float64(capacity)))
}

// Reason says why something goes, or why it stays.
type Reason string

// Why something goes.
const (
	ForSize Reason = "size" // the blobs take more than MaxSize
	ForFree Reason = "free" // less than MinFree is free
	ForAge  Reason = "age"  // not used for MaxAge; of what is left over, for a week
	ForNeed Reason = "need" // CollectOptions.Need asked for it
)

// Why something stays.
const (
	ByRoot     Reason = "root"     // kept by a root, such as a pin
	ByLease    Reason = "lease"    // held by a lease
	ByReader   Reason = "reader"   // being read
	ByTransfer Reason = "transfer" // a part of it is on its way
	ByUse      Reason = "use"      // used within the last seconds
)

// Collection tells what a collection took, or would take, in the order in
// which it went. An image is told by its top: the blob that refers to all the
// others, or a blob that nothing refers to.
type Collection struct {
	Leftovers []Leftover // before any image
	Gone      []Eviction
	Kept      []Stay // all that had to stay; only where Short is not 0
	Blobs     int    // of Gone, all together
	Bytes     int64  // freed by it
	// Short is how many bytes more should have gone to come within the limits,
	// and could not.
	Short int64
}

// Eviction is one image that goes, with what only it needs.
type Eviction struct {
	Top   digest.Digest
	Blobs int
	Bytes int64     // freed by it
	Forms int64     // of these, what was made of the blobs (see Derived)
	Used  time.Time // see Store.Collect
	Why   Reason
}

// Stay is one image that stays though space is wanted.
type Stay struct {
	Top   digest.Digest
	Bytes int64 // of it that are here, shared ones included
	Used  time.Time
	Why   Reason
}

// CollectOptions are how one collection differs from those that run by themselves.
type CollectOptions struct {
	DryRun bool  // tell what would go, and take nothing
	Need   int64 // bytes to free at least, whatever the limits say
}

// limits are what collections hold the store to.
type limits struct {
	size int64
	free Reserve
	age  time.Duration
}

func (l limits) none() bool { return l == limits{} }

// Collect brings the store within its limits (see [Options]). What is left over
// goes first: rotten files, then what nobody goes on with of transfers and
// ingests, then idle forms (see [Derived]). Then whole images go, the least
// recently used first, with what was made of them. What a root, a lease, an open reader or a
// transfer holds stays, so does what was used a moment ago, and every blob
// that an image which stays needs.
//
// An image was used when any blob was that it alone has; a blob that several
// have was asked for with the one of them that was used last.
//
// It goes in small steps, each whole by itself, beside all traffic. Once begun
// for the limits it leaves a little room, so that the next pull does not
// begin it again. Errors: [ErrClosed], *[StorageError], and the cause of ctx;
// what the Collection tells went nevertheless.
func (s *Store) Collect(ctx context.Context, o CollectOptions) (Collection, error) {
	if err := s.enter(); err != nil {
		return Collection{}, err
	}
	defer s.flying.Done()
	select {
	case s.collector.turn <- struct{}{}:
		defer func() { <-s.collector.turn }()
	case <-ctx.Done():
		return Collection{}, context.Cause(ctx)
	case <-s.ctx.Done():
		return Collection{}, ErrClosed
	}
	if o.DryRun {
		p, err := s.plan(o.Need)
		if err != nil {
			return Collection{}, err
		}
		return p.collection(), nil
	}
	return s.collect(ctx, o.Need)
}

// collect plans and carries out. What changed in between is planned anew.
func (s *Store) collect(ctx context.Context, need int64) (c Collection, err error) {
	for round := 0; ; round++ {
		p, err := s.plan(need - c.Bytes)
		if err != nil {
			return c, err
		}
		c.Kept, c.Short = p.kept, p.short()
		if round == roundsMost {
			c.Short = p.must
			return c, nil
		}
		left := s.clearOut(ctx, p, &c)
		stayed, err := s.carryOut(ctx, p, &c)
		if left+stayed == 0 || err != nil {
			return c, err
		}
	}
}

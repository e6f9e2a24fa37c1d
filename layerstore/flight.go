package layerstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// near is how far, in bytes, behind a running transfer a wanted byte may stand
// for its reader to wait rather than ask the source for a stretch of its own:
// what a slow upstream (25 MB/s) sends in the time of a few round trips.
const near = 4 << 20

// state is how far a flight has come. It only grows.
type state int

const (
	arriving state = iota // bytes are on their way
	proven                // all here, size and digest right; not yet durable
	sealed_               // in the store
	failed                // ended; flight.err says why
)

// flight is one transfer and all who follow it. It is not responsible for
// whether a reader may see the blob: who calls Fetch has decided that.
type flight struct {
	store     *Store
	digest    digest.Digest
	mediaType string
	source    Source
	ctx       context.Context // under the store's, not a client's
	cancel    context.CancelFunc
	withheld  int64          // how many bytes, at the end, readers get only when the blob is proven; 0 is 1
	part      *partial       // set before answered, by the flight's own goroutine
	aside     sync.WaitGroup // stretches fetched on the side

	mu         sync.Mutex // guards what follows
	size       int64      // bytes, -1 until known
	answered   bool       // the source has agreed to send
	have       spans      // what of the partial file may be read
	active     map[*stretch]struct{}
	alone      bool      // the source gives no ranges beside a transfer
	told       bool      // the size is the descriptor's, not what the source says
	failures   int       // of requests beside the transfer
	restsUntil time.Time // no more of those before; the clock of timers, as for pauses
	received   int64     // bytes that came from the source
	best       int64     // bytes that one request would have brought in a window, see dropSlow
	state      state
	ended      bool          // off the table: its path under ingest/ may be another's
	err        error         // why it failed, or why it is proven and could not be sealed
	changed    chan struct{} // closed at the next change; nil while nobody waits
}

// stretch is a part of a blob that one request to the source is to bring:
// [pos, end) is still to come, end -1 is unknown; [kept, pos) came and is being
// written. Guarded by flight.mu.
type stretch struct {
	hangUp func() // ends its request as a silent one is ended; nil before it is made
	mark   int64  // pos at the beginning of the window that spread looks at
	pace   int64  // pos at the beginning of the part of the window
	looks  int    // since the window began

	kept, pos, end int64
	aside          bool // fetched beside the transfer, for a reader that waits
}

// join gives the flight of a digest and whether it was under way; it starts
// one when there is a source for it.
func (s *Store) join(desc specs.Descriptor, src Source) (*flight, Outcome, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, Miss, ErrClosed
	}
	if f := s.flights[desc.Digest]; f != nil {
		return f, Joined, nil
	}
	if src == nil {
		return nil, Miss, fmt.Errorf("%s: %w", desc.Digest, ErrNotFound)
	}
	size := desc.Size
	if size <= 0 {
		size = -1
	}
	f := &flight{
		store: s, digest: desc.Digest, mediaType: desc.MediaType, source: src,
		size: size, told: size > 0, active: map[*stretch]struct{}{},
	}
	f.ctx, f.cancel = context.WithCancel(s.ctx)
	s.flights[f.digest] = f
	s.flying.Go(f.run)
	return f, Miss, nil
}

// run is the whole life of a flight.
func (f *flight) run() {
	defer f.cancel()
	if f.alreadySealed() {
		return
	}
	f.awaitDrop()
	part, have, err := openPartial(f.store.layout, f.digest, f.size)
	if err != nil {
		f.store.keeping.met(err, f.size)
		f.end(failed, err)
		return
	}
	f.part = part
	f.takeUp(have)
	err = f.reserve()
	if err == nil {
		err = f.transfer()
	}
	if err != nil {
		f.abandon(err)
		return
	}
	f.advance(proven, nil)
	f.store.commit.seal(f)
}

// alreadySealed catches the reader that missed the file just before another
// flight gave it its name.
func (f *flight) alreadySealed() bool {
	info, err := os.Lstat(f.store.layout.blob(f.digest))
	if err != nil || f.store.proofs.hidden(f.digest) {
		return false
	}
	f.mu.Lock()
	f.size = info.Size()
	f.mu.Unlock()
	f.end(sealed_, nil)
	return true
}

// takeUp begins with what an earlier process, or an earlier flight, left.
func (f *flight) takeUp(j journal) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(j.Have) > 0 {
		f.have, f.size = j.Have, j.Size
		f.store.unheld.stale.Store(true)
	}
}

// abandon ends a flight that brought no blob. What came stays for the next
// one, unless it was wrong.
func (f *flight) abandon(err error) {
	f.cancel()
	f.aside.Wait()
	var wrong *DigestError
	var size *SizeError
	var storage *StorageError
	switch {
	case errors.As(err, &wrong):
		f.store.suspects.add(f.digest)
		f.part.discard()
	case errors.As(err, &size) && !f.told: // which size is right nobody knows
		f.part.discard()
	case errors.As(err, &storage):
		f.part.discard() // its space may be what all others need
		f.store.noteGrowth()
	default:
		f.part.leave(f.journal())
	}
	f.store.unheld.stale.Store(true)
	if f.store.ctx.Err() != nil {
		err = ErrClosed
	}
	if storage != nil {
		f.store.keeping.met(err, max(f.size, f.frontier()))
		f.store.noteFull(err, max(f.size, f.frontier()))
	} else {
		f.store.log.Warn("transfer failed", "digest", f.digest, "received", f.receivedNow(), "error", err)
	}
	f.end(failed, err)
}

// end takes the flight off the table, so that the next who ask find the sealed
// file or start anew, and tells its followers. Both in one step: who sees that
// the flight has not ended knows that the partial file is still its own.
func (f *flight) end(s state, err error) {
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	delete(f.store.flights, f.digest)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	f.set(s, err)
}

func (f *flight) advance(s state, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set(s, err)
}

// set moves on to a state and tells everybody. f.mu is held.
func (f *flight) set(s state, err error) {
	f.state, f.err = s, err
	f.answered = f.answered || s != failed
	f.wake()
}

// wake tells everybody who waits to look again. f.mu is held.
func (f *flight) wake() {
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}

// await waits for a change. f.mu is held, and held again when it returns.
func (f *flight) await(ctx context.Context) error {
	if f.changed == nil {
		f.changed = make(chan struct{})
	}
	changed := f.changed
	f.mu.Unlock()
	defer f.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// follow waits until the source has agreed and the size is known, and opens a
// reader. A blob of no bytes has no last one to withhold: it is waited for until
// it is proven.
func (f *flight) follow(ctx context.Context, o Outcome) (*Blob, error) {
	f.mu.Lock()
	for f.state < proven && (!f.answered || f.size <= 0) {
		if err := f.await(ctx); err != nil {
			f.mu.Unlock()
			return nil, err
		}
	}
	size, state, err := f.size, f.state, f.err
	f.mu.Unlock()
	if state == failed {
		return nil, err
	}
	f.store.inUse.read(f.digest)
	file, err := f.open(ctx)
	if err != nil {
		f.store.inUse.unread(f.digest)
		return nil, err
	}
	return &Blob{ctx: ctx, store: f.store, file: file, digest: f.digest, size: size, flight: f, outcome: o, joined: o == Joined}, nil
}

// open opens the partial file, or the blob that it was renamed to. What was
// opened is the flight's own when it has not ended by then; the next flight of
// the digest uses the same path.
func (f *flight) open(ctx context.Context) (*os.File, error) {
	file, err := os.Open(f.store.layout.partial(f.digest))
	if errors.Is(err, fs.ErrNotExist) {
		file, err = os.Open(f.store.layout.blob(f.digest))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	// One that proved wrong, or could not be sealed, loses its file a moment
	// before it ends and can tell why.
	for errors.Is(err, fs.ErrNotExist) && !f.ended {
		if err := f.await(ctx); err != nil {
			return nil, err
		}
	}
	if !f.ended {
		return file, f.store.unreadable(err)
	}
	if err == nil {
		file.Close()
	}
	if f.err != nil {
		return nil, f.err
	}
	file, err = os.Open(f.store.layout.blob(f.digest))
	return file, f.store.unreadable(err)
}

// readable waits until the byte at pos may be read and returns the end of the
// run of bytes that may be read from there; pos itself at the end of the blob.
// want is how many bytes the reader is after: what is far from any running
// transfer is fetched on the side. All that it is after, in one call or several,
// ends at until.
func (f *flight) readable(ctx context.Context, pos, want, until int64, unproven bool) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		if f.size >= 0 && pos >= f.size {
			return pos, nil
		}
		if f.state == proven && f.err != nil {
			return 0, f.err // not kept: what the file holds is not trusted unread
		}
		if end := f.readableTo(pos, until, unproven); end > pos {
			return end, nil
		}
		if f.state == failed {
			return 0, f.err
		}
		f.summon(pos, want)
		if err := f.await(ctx); err != nil {
			return 0, err
		}
	}
}

// readableTo is one byte short of the end until the blob is proven, so that no
// reader completes what may be wrong. While a blob that is here is proven again
// it is also one byte short of what the reader is after: who asks for a range of
// a sealed blob may rely on it as on the whole.
func (f *flight) readableTo(pos, until int64, unproven bool) int64 {
	if f.state == proven || f.state == sealed_ {
		return f.size
	}
	end := f.have.reach(pos)
	if !unproven && f.size >= 0 && end == f.size {
		end -= max(f.withheld, 1)
	}
	if f.withheld > 0 {
		end = min(end, until-1)
	}
	return end
}

// farAhead reports whether pos stands so far behind the frontier that nobody
// who asks for it can have read up to it from this flight.
func (f *flight) farAhead(pos int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state == arriving && pos > f.have.reach(0)+near
}

// frontier is the end of the run of bytes that begins at the start of the blob.
func (f *flight) frontier() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.have.reach(0)
}

func (f *flight) receivedNow() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.received
}

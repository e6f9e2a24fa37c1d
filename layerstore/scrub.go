package layerstore

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

const (
	defaultVerifyAfter = 7 * 24 * time.Hour
	// What a spinning disk can spare while it serves: a full one of 4 TB is read
	// once in a week.
	defaultScrubRate = 8 << 20
	// The start belongs to those who start their containers.
	scrubFirst = time.Minute
	// How often the background pass looks for proofs that grew too old.
	scrubEvery = time.Hour
)

// ScrubOptions say what to scrub, and how.
type ScrubOptions struct {
	All      bool                // every blob; otherwise those whose proof is older than Options.VerifyAfter
	Rate     int64               // bytes a second; 0: what the disk gives
	Progress func(ScrubProgress) // may be nil; called by one goroutine at a time, often
}

// ScrubProgress tells how far a scrub is.
type ScrubProgress struct {
	Digest                digest.Digest // the blob being read
	BlobsDone, BlobsTotal int
	BytesDone, BytesTotal int64
	Rotten                int
}

// Scrubbed is what a scrub did.
type Scrubbed struct {
	Blobs  int             // read, the rotten ones included
	Bytes  int64           // read
	Rotten []digest.Digest // and taken away
}

// Scrub proves blobs again, the one with the oldest proof first: it reads them
// from the disk, past the page cache where the file system can, with idle I/O
// priority, and takes those away that are rotten. It returns what it did also
// with an error: the cause of ctx, [ErrClosed], *[StorageError].
func (s *Store) Scrub(ctx context.Context, o ScrubOptions) (Scrubbed, error) {
	return s.scrub(ctx, o, newPace(o.Rate))
}

func (s *Store) scrub(ctx context.Context, o ScrubOptions, at *pace) (Scrubbed, error) {
	if err := s.enter(); err != nil {
		return Scrubbed{}, err
	}
	defer s.flying.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(ErrClosed) })()
	due, err := s.due(o.All)
	if err != nil {
		return Scrubbed{}, storageError("read index", err)
	}
	p := &scrub{store: s, all: o.All, progress: o.Progress, pace: at}
	p.state.BlobsTotal = len(due)
	for _, b := range due {
		p.state.BytesTotal += b.size
	}
	done := make(chan error)
	go func() {
		// The thread ends with the goroutine, and its priority with it.
		runtime.LockOSThread()
		idle()
		done <- p.run(ctx, due)
	}()
	err = <-done
	s.pruneQuarantine()
	return p.done, errors.Join(err, storageError("write proofs", s.proofs.write()))
}

// idle makes the kernel serve this thread's reads when nobody else wants the
// disk (ioprio_set(2)). Schedulers without priorities ignore it.
func idle() {
	const whoThread, classIdle = 1, 3 << 13
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, whoThread, 0, classIdle)
}

// dueBlob is a blob that a scrub is to read.
type dueBlob struct {
	digest digest.Digest
	size   int64
	proven time.Time
}

// due lists the blobs to scrub, the oldest proof first.
func (s *Store) due(all bool) ([]dueBlob, error) {
	var due []dueBlob
	err := s.index.each(func(d digest.Digest, r row) error {
		k := s.index.known(r)
		if newer, ok := s.proofs.recent.Peek(d); ok {
			k = newer
		}
		if all || !s.proofs.fresh(k) {
			due = append(due, dueBlob{d, r.Size, k.proven})
		}
		return nil
	})
	slices.SortFunc(due, func(a, b dueBlob) int {
		return cmp.Or(a.proven.Compare(b.proven), cmp.Compare(a.digest, b.digest))
	})
	return due, err
}

// scrub is one pass.
type scrub struct {
	store    *Store
	all      bool
	progress func(ScrubProgress)
	pace     *pace
	state    ScrubProgress
	done     Scrubbed
}

func (p *scrub) run(ctx context.Context, due []dueBlob) error {
	buf, err := newDirectBuffer()
	if err != nil {
		return storageError("scrub", err)
	}
	defer buf.free()
	for _, b := range due {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p.state.Digest = b.digest
		before := p.state.BytesDone
		if err := p.blob(ctx, b, buf); err != nil {
			return err
		}
		p.state.BlobsDone++
		p.state.BytesDone = before + b.size // also where it was shorter, or needed no reading
		p.report()
	}
	return nil
}

// blob reads one blob. What is not the blob's fault ends the pass.
func (p *scrub) blob(ctx context.Context, b dueBlob, buf *directBuffer) error {
	s := p.store
	// A hit, or another pass, may have proven it meanwhile.
	if k, ok := s.proofs.of(b.digest); !p.all && ok && s.proofs.fresh(k) {
		return nil
	}
	file, err := openDirect(s.layout.blob(b.digest))
	if err != nil {
		return p.unopened(b.digest, err)
	}
	defer file.close()
	info, err := file.Stat()
	if err != nil {
		return storageError("scrub", err)
	}
	err = s.examine(ctx, b.digest, info, func(ctx context.Context) error {
		return file.hash(b.digest, info.Size(), buf, func(n int64) error { return p.read(ctx, n) })
	})
	var rot *RotError
	if errors.As(err, &rot) {
		p.found(b.digest)
		err = nil
	}
	if err == nil {
		p.done.Blobs++
	} else if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return storageError("scrub", err)
}

func (p *scrub) unopened(d digest.Digest, err error) error {
	_, before := p.store.index.get(d)
	err = p.store.unopened(d, err)
	if !errors.Is(err, fs.ErrNotExist) {
		return storageError("scrub", err)
	}
	// Without a row before it was removed, as it may be at any time.
	if before == nil {
		p.done.Blobs++
		p.found(d)
	}
	return nil
}

func (p *scrub) found(d digest.Digest) {
	p.done.Rotten = append(p.done.Rotten, d)
	p.state.Rotten++
}

// read counts bytes as they come, and waits as the rate says.
func (p *scrub) read(ctx context.Context, n int64) error {
	p.done.Bytes += n
	p.state.BytesDone += n
	p.store.counts.scrubbed.Add(n)
	p.report()
	return p.pace.wait(ctx, n)
}

func (p *scrub) report() {
	if p.progress != nil {
		p.progress(p.state)
	}
}

// pace keeps work at a rate, that of several workers taken together.
type pace struct {
	rate int64 // bytes a second, 0 or less: unlimited

	mu    sync.Mutex // guards what follows
	since time.Time  // from when on bytes were counted
	bytes int64
}

func newPace(rate int64) *pace { return &pace{rate: rate, since: time.Now()} }

// count counts n more bytes, and tells in how long they are due.
func (p *pace) count(n int64) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes += n
	left := time.Until(p.since.Add(time.Duration(float64(p.bytes) / float64(p.rate) * float64(time.Second))))
	if left <= 0 {
		// What a slow disk held up is not made up for by a burst.
		p.since, p.bytes = time.Now(), 0
	}
	return left
}

// wait returns when n more bytes are due.
func (p *pace) wait(ctx context.Context, n int64) error {
	if p.rate <= 0 || ctx.Err() != nil {
		return context.Cause(ctx)
	}
	left := p.count(n)
	if left <= 0 {
		return nil
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// ScrubPace returns when n more bytes may be read at Options.ScrubRate, which
// the background pass shares with whoever proves in the background what was made
// of blobs. The error is the cause of ctx.
func (s *Store) ScrubPace(ctx context.Context, n int64) error { return s.pace.wait(ctx, n) }

// scrubbing is the background pass: it proves what was not proven for long
// until the store closes.
func (s *Store) scrubbing() {
	timer := time.NewTimer(scrubFirst)
	defer timer.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-timer.C:
		}
		done, err := s.scrub(s.ctx, ScrubOptions{}, s.pace)
		switch {
		case s.ctx.Err() != nil:
			return
		case err != nil:
			s.log.Error("scrub ended early", "blobs", done.Blobs, "error", err)
		case done.Blobs > 0:
			s.log.Info("scrubbed", "blobs", done.Blobs, "bytes", done.Bytes, "damaged", len(done.Rotten))
		}
		timer.Reset(scrubEvery)
	}
}

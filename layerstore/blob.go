package layerstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Outcome tells where the bytes of a [Blob] come from.
type Outcome int

const (
	Hit    Outcome = iota // they were sealed in the store
	Miss                  // a flight was started for them
	Joined                // a flight was under way
	Bypass                // straight from the source: the store could not keep or give them
)

func (o Outcome) String() string {
	return [...]string{"hit", "miss", "joined", "bypass"}[o]
}

// joinsMost is how often a reader whose flight failed at its start tries with
// its own source: the flight may have been started with one that has no right
// to the blob, or does not have it.
const joinsMost = 3

// Fetch opens a reader of a blob: of the sealed file, of the flight under way,
// or of a new flight that asks src. It returns when the size is known. With a
// nil src only what is here or under way is found. desc.Size is checked
// against what the source announces, 0 or -1 means unknown; desc.MediaType is
// kept beside the blob. Where the disk fails, at once or later, the reader goes
// on past the store, straight from src, and is not told but by its Outcome.
//
// ctx governs the waiting of this reader, here and in every method of the
// Blob; the flight goes on without it. Errors: [ErrNotFound], [ErrClosed],
// *[SizeError], *[DigestError], *[StorageError], those of the source, and the
// cause of ctx.
func (s *Store) Fetch(ctx context.Context, desc specs.Descriptor, src Source) (*Blob, error) {
	b, err := s.fetch(ctx, desc, src)
	var storage *StorageError
	if errors.As(err, &storage) && src != nil {
		return s.fetchPast(ctx, desc, src, err)
	}
	if err != nil {
		return nil, err
	}
	b.source = src
	return b, nil
}

// fetch is Fetch through the store alone.
func (s *Store) fetch(ctx context.Context, desc specs.Descriptor, src Source) (*Blob, error) {
	if err := checkDigest(desc.Digest); err != nil {
		return nil, err
	}
	for joins := 1; ; joins++ {
		b, err := s.openSealed(ctx, desc.Digest)
		if !errors.Is(err, fs.ErrNotExist) {
			return b, s.unreadable(err)
		}
		f, outcome, err := s.join(desc, src)
		if err != nil {
			return nil, err
		}
		b, err = f.follow(ctx, outcome)
		removed := errors.Is(err, fs.ErrNotExist) // sealed, and removed before it could be opened
		var storage *StorageError
		if !removed && errors.As(err, &storage) {
			return nil, err
		}
		if err == nil || (outcome != Joined && !removed) || src == nil || ctx.Err() != nil || joins == joinsMost {
			return b, err
		}
	}
}

func (s *Store) openSealed(ctx context.Context, d digest.Digest) (*Blob, error) {
	for {
		b, err := s.openOnce(ctx, d)
		if !errors.Is(err, errReplaced) {
			return b, err
		}
	}
}

// openOnce is openSealed, or errReplaced: a proof is one of a file, and what is
// known of a digest may be about a newer one than was opened. That happens once
// for each time the blob is sealed, or becomes known, in between.
func (s *Store) openOnce(ctx context.Context, d digest.Digest) (*Blob, error) {
	opened := s.proofs.sealings.Load()
	s.inUse.read(d)
	file, err := os.Open(s.layout.blob(d))
	if err != nil {
		s.inUse.unread(d)
		return nil, s.unopened(d, err)
	}
	info, err := file.Stat()
	if err != nil {
		s.inUse.unread(d)
		file.Close()
		return nil, err
	}
	s.reading.over(0)
	s.Touch(d)
	return s.trust(&Blob{ctx: ctx, store: s, file: file, digest: d, size: info.Size(), outcome: Hit}, info, opened)
}

// Blob is an open reader of one blob: an io.ReadSeekCloser and io.ReaderAt.
// Where bytes are still on their way it waits for them. An error other than
// io.EOF means that the blob could not be brought whole and true: what was
// passed on must be cut, never ended cleanly. Whoever fetched it closes it. It
// is for one goroutine, but for ReadAt.
type Blob struct {
	ctx     context.Context
	store   *Store
	file    *os.File // its own descriptor
	digest  digest.Digest
	size    int64
	came    time.Time
	flight  *flight // nil when sealed
	outcome Outcome

	pos      int64 // of Read, Seek and Run
	filePos  int64 // of the descriptor
	unproven bool  // may read the last byte before the blob is proven

	source   Source  // where it goes on past the store, nil: nowhere of its own
	joined   bool    // the flight's source is another's
	from     int64   // where the run of reads began that pos ends
	limit    int64   // see Limit, 0: none
	why      error   // why it goes past the store, nil: it does not
	turnedAt int64   // the position when it began to
	past     *bypass // nil until needed
}

// Digest is the one the blob was fetched by.
func (b *Blob) Digest() digest.Digest { return b.digest }

// Size is in bytes.
func (b *Blob) Size() int64 { return b.size }

// Came is when the last byte came from its source; now, for one that follows
// a flight.
func (b *Blob) Came() time.Time { return b.came }

// Outcome tells where the bytes come from.
func (b *Blob) Outcome() Outcome { return b.outcome }

// Close closes the reader. The flight goes on.
func (b *Blob) Close() error {
	if b.past != nil {
		b.past.close()
	}
	if b.file == nil {
		return nil
	}
	err := b.file.Close()
	if !errors.Is(err, os.ErrClosed) {
		b.store.Touch(b.digest) // it was in use until now
		b.store.inUse.unread(b.digest)
	}
	return err
}

// Seek moves the position of Read and Run.
//
// A reader that asks for a range far ahead of the frontier, a lazy loader or
// one of several that fetch a layer in parallel, does not complete the blob by
// it, and gets the last byte before the blob is proven; unless the digest
// proved wrong lately, when it may hold the wrong part.
func (b *Blob) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += b.pos
	case io.SeekEnd:
		offset += b.size
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek %s to %d: %w", b.digest, offset, fs.ErrInvalid)
	}
	if offset != b.pos {
		b.from = offset
	}
	b.pos, b.limit = offset, 0
	b.unproven = b.flight != nil && 0 < offset && offset < b.size &&
		b.flight.farAhead(offset) && !b.store.suspects.has(b.digest)
	return offset, nil
}

// Read reads at the position what is there, waiting for the first byte only. It
// returns io.EOF at the end of a proven blob only.
func (b *Blob) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if b.why != nil {
		return b.readPast(p)
	}
	run, err := b.run(b.pos, min(int64(len(p)), b.end()-b.pos), b.end())
	if b.turns(err) {
		return b.readPast(p)
	}
	if err != nil {
		return 0, err
	}
	if run == 0 {
		return 0, io.EOF
	}
	n, err := b.file.ReadAt(p[:run], b.pos)
	err = readError(err, int64(n) == run)
	if n == 0 && b.turns(err) {
		return b.readPast(p)
	}
	b.pos += int64(n)
	return n, err
}

// ReadAt reads at off, waiting for the first byte there; what else is there
// comes with it, so n < len(p) with io.EOF is given at the end of the blob, and
// where the next bytes are still on their way it waits for them. Of a blob whose
// proof is old it gives the last byte of p when the blob is proven. It does not go
// past the store: there its error is a *[StorageError], and Read still goes on.
func (b *Blob) ReadAt(p []byte, off int64) (n int, err error) {
	if b.file == nil {
		return 0, b.why
	}
	for n < len(p) {
		run, err := b.run(off+int64(n), int64(len(p)-n), off+int64(len(p)))
		if err != nil {
			return n, err
		}
		if run == 0 {
			return n, io.EOF
		}
		m, err := b.file.ReadAt(p[n:n+int(run)], off+int64(n))
		n += m
		if err = readError(err, int64(m) == run); err != nil {
			return n, err
		}
	}
	return n, nil
}

// readError is err of reading a part of the file, all of which may have come.
func readError(err error, all bool) error {
	if err == io.EOF && all {
		return nil
	}
	return storageError("read blob", noEarlyEnd(err))
}

// noEarlyEnd keeps the end of a file that is shorter than its blob from
// looking like the end of the blob.
func noEarlyEnd(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// run is how many of the want bytes at pos may be read now, at least one, or 0
// at the end of the blob. What is asked for ends at until.
func (b *Blob) run(pos, want, until int64) (int64, error) {
	end := b.size
	if b.flight != nil && want > 0 {
		var err error
		if end, err = b.flight.readable(b.ctx, pos, want, until, b.unproven); err != nil {
			return 0, err
		}
	}
	return max(min(end-pos, want), 0), nil
}

// Run lends the blob's own descriptor for sending from file to socket: it
// waits until bytes at the position are readable, and returns the file,
// standing there, and how many of at most most bytes may be taken from it. The
// taker then says by [Blob.Advance] how many it took. It returns io.EOF at the
// end. The file is nil for a reader that goes past the store: then the taker
// gets that many bytes by [Blob.Read].
func (b *Blob) Run(most int64) (*os.File, int64, error) {
	if b.why != nil {
		return b.runPast(most)
	}
	n, err := b.run(b.pos, min(most, b.end()-b.pos), b.end())
	if b.turns(err) {
		return b.runPast(most)
	}
	if err != nil {
		return nil, 0, err
	}
	if n == 0 {
		return nil, 0, io.EOF
	}
	if b.filePos != b.pos {
		if _, err := b.file.Seek(b.pos, io.SeekStart); err != nil {
			return nil, 0, storageError("seek blob", err)
		}
		b.filePos = b.pos
	}
	return b.file, n, nil
}

// Keeping reports whether the blob is here, or will be, as far as that can be
// known now: that nothing has gone wrong yet, that the disk takes blobs of its
// size, and that there is room for what is still to come.
func (b *Blob) Keeping() bool {
	if b.why != nil || b.flight == nil {
		return b.why == nil
	}
	f := b.flight
	f.mu.Lock()
	failed, lacking := f.err != nil, f.size-f.have.bytes()
	f.mu.Unlock()
	if failed || b.store.keeping.refuses(b.size) {
		return false
	}
	_, free, err := b.store.disk()
	return err != nil || lacking <= int64(free)
}

// Proven reports whether all bytes may be given: the blob is sealed, and no
// proof of it is outstanding.
func (b *Blob) Proven() bool {
	if b.why != nil {
		return false
	}
	if b.flight == nil {
		return true
	}
	b.flight.mu.Lock()
	defer b.flight.mu.Unlock()
	return b.flight.state == sealed_
}

// Advance moves the position by the n bytes that were taken from the file.
func (b *Blob) Advance(n int64) {
	b.pos += n
	b.filePos += n
}

// Ensure fetches a blob and returns when it is sealed. progress, which may be
// nil, is told how many bytes of how many are here, as they come. Errors are
// those of [Store.Fetch].
func (s *Store) Ensure(ctx context.Context, desc specs.Descriptor, src Source, progress func(done, total int64)) error {
	if progress == nil {
		progress = func(int64, int64) {}
	}
	for joins := 1; ; joins++ {
		b, err := s.fetch(ctx, desc, src)
		if err != nil {
			return err
		}
		b.Close()
		if err = b.sealed(ctx, desc, progress); err == nil {
			return nil
		}
		removed := errors.Is(err, fs.ErrNotExist) || (b.outcome == Hit && b.flight != nil) // rotten
		if (b.outcome != Joined && !removed) || ctx.Err() != nil || joins == joinsMost {
			return err
		}
	}
}

// sealed returns when the blob is sealed.
func (b *Blob) sealed(ctx context.Context, desc specs.Descriptor, progress func(done, total int64)) error {
	if b.flight != nil {
		if err := b.flight.sealed(ctx, progress); err != nil {
			return err
		}
	}
	if err := b.store.commit.confirm(desc, b.size); err != nil {
		return err
	}
	progress(b.size, b.size)
	return nil
}

// sealed waits until the flight is sealed or has failed.
func (f *flight) sealed(ctx context.Context, progress func(done, total int64)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		done, total, state, err := f.have.bytes(), f.size, f.state, f.err
		f.mu.Unlock()
		progress(done, total)
		f.mu.Lock()
		if state == sealed_ || state == failed || err != nil {
			return err
		}
		if f.state != state || f.have.bytes() != done {
			continue
		}
		if err := f.await(ctx); err != nil {
			return err
		}
	}
}

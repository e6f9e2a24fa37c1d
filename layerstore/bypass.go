package layerstore

import (
	"context"
	"errors"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"os"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// bypass gives a reader the rest of its blob past a store that cannot keep it:
// straight from a source, touching no disk but to read back what the reader
// was given from the partial file. What contains the last byte of the blob is
// hashed from its start, and the last byte is withheld until the digest is
// right. It belongs to one reader; the bodies it reads may be shared (stream).
type bypass struct {
	blob    *Blob
	ctx     context.Context
	cancel  func()
	sources []Source  // the next one is asked when the first is at its end
	end     int64     // of what the reader is after; -1 until the size is known
	hash    hash.Hash // of [0, at); nil when the last byte is not asked for
	at      int64     // the next byte to give
	err     error     // why nothing more is given

	body     *Body // nil while none is open
	bodyAt   int64 // its next byte
	bodyCtx  context.Context
	hangUp   context.CancelCauseFunc // ends bodyCtx
	tries    int                     // since the last byte
	received int64
}

// fetchPast opens a reader of a blob that the store could not take up, for the
// reason why. It returns when the source has agreed and the size is known.
func (s *Store) fetchPast(ctx context.Context, desc specs.Descriptor, src Source, why error) (*Blob, error) {
	b := &Blob{ctx: ctx, store: s, digest: desc.Digest, size: desc.Size, source: src}
	if desc.Size <= 0 {
		b.size = -1
	}
	b.turn(why)
	y := b.newBypass()
	b.past = y
	if err := y.meet(); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// turn sends the reader past the store from here on, if it has a source.
func (b *Blob) turn(why error) bool {
	if b.why != nil || (b.source == nil && (b.flight == nil || b.flight.source == nil)) {
		return false
	}
	b.why, b.turnedAt, b.outcome = why, b.pos, Bypass
	b.store.counts.bypassed.Add(1)
	return true
}

// turns reports whether err is the store's fault, and the reader goes on past it.
func (b *Blob) turns(err error) bool {
	var storage *StorageError
	return errors.As(err, &storage) && b.turn(err)
}

// Bypass makes the reader go on past the store, because the bytes that [Blob.Run]
// lent could not be read. It returns nil, or why when there is nowhere to go on.
func (b *Blob) Bypass(why error) error {
	why = storageError("read blob", noEarlyEnd(why))
	if !b.turn(why) {
		return why
	}
	b.store.reading.met(why, 0)
	b.store.proofs.doubt(b.digest)
	return nil
}

// Bypassed is why the reader goes past the store, nil when it does not.
func (b *Blob) Bypassed() error { return b.why }

// Limit ends the reader n bytes behind its position, as io.LimitReader would,
// until the next Seek. Who wants a part of a blob says so: a part without the
// last byte completes nothing, and needs no proof where proof is costly.
func (b *Blob) Limit(n int64) { b.limit = b.pos + n }

// end is where the reader ends.
func (b *Blob) end() int64 {
	if b.limit > 0 && b.limit < b.size {
		return b.limit
	}
	return b.size
}

// readPast is Read of a reader that goes past the store.
func (b *Blob) readPast(p []byte) (int, error) {
	end := b.end()
	if y := b.past; y == nil || y.at != b.pos || y.end != end {
		if err := b.detour(); err != nil {
			return 0, err
		}
	}
	n, err := b.past.read(p)
	b.pos += int64(n)
	return n, err
}

// detour begins to bypass at the reader's position.
func (b *Blob) detour() error {
	if b.past != nil {
		if b.past.err != nil {
			return b.past.err
		}
		b.past.close()
	}
	y := b.newBypass()
	b.past = y
	y.at, y.end = b.pos, b.end()
	if y.end < b.size {
		y.hash = nil
		return nil
	}
	y.err = y.prime(b.from, b.pos)
	return y.err
}

func (b *Blob) newBypass() *bypass {
	y := &bypass{blob: b, end: b.size, hash: b.digest.Algorithm().Hash()}
	ctx, cancel := context.WithCancelCause(b.ctx)
	undo := context.AfterFunc(b.store.ctx, func() { cancel(ErrClosed) })
	y.ctx, y.cancel = ctx, func() { undo(); cancel(nil) }
	if b.flight != nil && b.flight.whole() {
		y.sources = append(y.sources, readBack{b})
	}
	if b.source != nil {
		y.sources = append(y.sources, b.source)
	}
	if b.flight != nil && b.flight.source != nil && (b.joined || b.source == nil) {
		y.sources = append(y.sources, b.flight.source)
	}
	return y
}

// whole reports whether the flight brought all and proved it.
func (f *flight) whole() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state == proven
}

// readBack is the reader's own descriptor as a source, for a blob that was
// proven and then could not be sealed. A page that could not be written may
// read differently later, so it is hashed like any other source.
type readBack struct{ blob *Blob }

func (r readBack) Open(_ context.Context, offset, _ int64) (*Body, error) {
	part := io.NewSectionReader(r.blob.file, offset, r.blob.size-offset)
	return &Body{ReadCloser: readBackBody{part}, Offset: offset, Size: r.blob.size}, nil
}

type readBackBody struct{ io.Reader }

func (r readBackBody) Close() error { return nil }

func (r readBackBody) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = storageError("read back", err)
	}
	return n, err
}

// prime makes the hash that of [0, pos). The reader was given [from, pos), and
// that can only be read back: the source's bytes for it may be others. What
// stands before from comes from the file or, where the file lacks it, the source.
func (y *bypass) prime(from, pos int64) error {
	b := y.blob
	if from < pos && pos > b.turnedAt {
		return b.why // given past the store, and not to be had again
	}
	if from > 0 && (!b.holds(from) || y.readBack(0, from) != nil) {
		y.hash.Reset()
		y.at = 0
		if err := y.skip(from); err != nil {
			return err
		}
	}
	y.at = pos
	if from == pos {
		return nil
	}
	return y.readBack(from, pos)
}

// holds reports whether the reader's file has the first n bytes.
func (b *Blob) holds(n int64) bool {
	return b.file != nil && (b.flight == nil || b.flight.frontier() >= n)
}

// readBack hashes [from, to) of the file.
func (y *bypass) readBack(from, to int64) error {
	buf := chunks.Get().(*[]byte)
	defer chunks.Put(buf)
	part := io.NewSectionReader(y.blob.file, from, to-from)
	// The buffer is hidden from what would make its own.
	n, err := io.CopyBuffer(struct{ io.Writer }{y.hash}, struct{ io.Reader }{part}, *buf)
	if err == nil && n < to-from {
		err = io.ErrUnexpectedEOF
	}
	return storageError("read back", err)
}

// skip hashes what the source sends up to pos.
func (y *bypass) skip(pos int64) error {
	buf := chunks.Get().(*[]byte)
	defer chunks.Put(buf)
	for y.at < pos {
		if _, err := y.take((*buf)[:min(chunkSize, pos-y.at)]); err != nil {
			return err
		}
	}
	return nil
}

// meet opens the first body and learns the size from it.
func (y *bypass) meet() error {
	for y.body == nil {
		if err := y.open(); err != nil {
			if err = y.again(err); err != nil {
				return err
			}
		}
	}
	if y.end < 0 {
		if err := y.measure(); err != nil {
			return err
		}
	}
	if y.end == 0 { // no last byte to withhold
		return y.prove()
	}
	return nil
}

// measure reads the blob once to its end where no source tells its size: a
// length has to be announced before the first byte.
func (y *bypass) measure() error {
	buf := chunks.Get().(*[]byte)
	defer chunks.Put(buf)
	for y.end < 0 {
		_, err := y.take(*buf)
		if err == io.EOF {
			y.blob.size, y.end = y.at, y.at
		} else if err != nil {
			return err
		}
	}
	y.hang()
	y.at = 0
	if y.end > 0 {
		y.hash.Reset()
	}
	return nil
}

// read gives the next bytes.
func (y *bypass) read(p []byte) (int, error) {
	if y.err != nil {
		return 0, y.err
	}
	most := y.end - y.at
	if most <= 0 {
		return 0, io.EOF
	}
	if y.hash != nil && most > 1 {
		most-- // the last byte is read by itself
	}
	n, err := y.take(p[:min(int64(len(p)), most)])
	if err == nil && y.hash != nil && y.at == y.end {
		err = y.prove()
	}
	if err != nil {
		y.err = err
		return 0, err
	}
	return n, nil
}

// prove compares the digest of all bytes.
func (y *bypass) prove() error {
	d := y.blob.digest
	if got := digest.NewDigest(d.Algorithm(), y.hash); got != d {
		y.blob.store.suspects.add(d)
		wrong := &DigestError{Want: d, Got: got}
		for _, src := range y.sources {
			reject(src, wrong)
		}
		return wrong
	}
	return nil
}

// runPast is Run of a reader that goes past the store.
func (b *Blob) runPast(most int64) (*os.File, int64, error) {
	n := min(most, b.end()-b.pos)
	if n <= 0 {
		return nil, 0, io.EOF
	}
	return nil, n, nil
}

// unreadable is err of opening a blob, told to the log unless the blob is gone.
func (s *Store) unreadable(err error) error {
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.reading.met(err, 0)
	}
	return storageError("open blob", err)
}

// Bypassed is how many readers went past the store since Open.
func (s *Store) Bypassed() int64 { return s.counts.bypassed.Load() }

func (s *Store) tellTroubles(log *slog.Logger) {
	s.keeping.log, s.indexing.log, s.reading.log = log, log, log
	s.keeping.what, s.keeping.healed = "blobs cannot be kept and go past the store", "blobs are kept again"
	s.indexing.what, s.indexing.healed = "the index cannot be written, rows wait in memory", "the index is written again"
	s.reading.what, s.reading.healed = "blobs cannot be read and go past the store", "blobs are read again"
}

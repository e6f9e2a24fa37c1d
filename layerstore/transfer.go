package layerstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// A source that has sent nothing yet is asked this often before the
	// flight fails: with the pauses below about two seconds, so that a client
	// gets an honest answer while it still waits.
	triesAtStart = 5
	// One that broke midway is asked more often: bytes are at stake.
	triesMidway = 10
	// One that is silent rather than broken takes long for each try. Clients
	// should hear of it while they still wait, and may know another source.
	stallsAtStart = 2
	stallsMidway  = 5
	// Pauses between tries double from the first to the last.
	firstPause = 100 * time.Millisecond
	lastPause  = 3 * time.Second
	// A source that asks to be left alone for a moment is asked once more.
	triesWhenLimited = 2
	// A source that asks for a longer pause than this is not waited for.
	patience = 2 * time.Second
	// Requests on the side that one flight may have under way.
	maxStretches = 8
	// The least that is fetched on the side, in bytes: a lazy loader that
	// reads a few KiB at a time shall not cost a request for each.
	minStretch = 256 << 10
	// One read from a source, in bytes.
	chunkSize = 256 << 10
)

var (
	errNoRanges = errors.New("the source sends the whole blob where a range was asked for")
	chunks      = sync.Pool{New: func() any { b := make([]byte, chunkSize); return &b }}
)

// transfer brings all bytes and proves them. It returns nil when the blob is
// proven; *[DigestError] when it is wrong; otherwise why bytes are lacking.
func (f *flight) transfer() error {
	if err := f.bring(); err != nil {
		return err
	}
	return f.prove()
}

// bring gets all bytes into the file.
func (f *flight) bring() error {
	defer f.spreading()()
	tries := 0
	for {
		s, whole, err := f.next()
		if err != nil || whole {
			return err
		}
		if err := f.part.catchUp(f.frontier()); err != nil {
			return storageError("read back", err)
		}
		before := f.receivedNow()
		// A source that is slow by nature gets more time with each try.
		asked, err := f.fill(s, f.store.stall<<min(tries, 2))
		f.release(s)
		if err == nil || f.receivedNow() > before {
			tries = 0
		}
		if err == nil {
			continue
		}
		tries += asked
		if err := f.pause(err, tries); err != nil {
			return err
		}
	}
}

// next is the first stretch that is neither here nor on its way. It waits
// while others bring the last ones; whole means that all are here.
func (f *flight) next() (s *stretch, whole bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		if f.size >= 0 && f.have.reach(0) >= f.size {
			return nil, true, nil
		}
		if s := f.unclaimed(); s != nil {
			f.active[s] = struct{}{}
			return s, false, nil
		}
		if err := f.await(f.ctx); err != nil {
			return nil, false, err
		}
	}
}

// unclaimed is the first gap that nobody brings. f.mu is held.
func (f *flight) unclaimed() *stretch {
	for s := range f.active {
		if s.end < 0 {
			return nil // it brings everything from where it is
		}
	}
	gap := f.claimed().gap(0)
	if gap.To < 0 {
		gap.To = f.size
	}
	if f.size >= 0 && gap.From >= f.size {
		return nil
	}
	return &stretch{kept: gap.From, pos: gap.From, end: gap.To}
}

// claimed is what is here or on its way. f.mu is held.
func (f *flight) claimed() spans {
	claimed := append(spans(nil), f.have...)
	for s := range f.active {
		claimed.add(s.kept, s.end)
	}
	return claimed
}

func (f *flight) release(s *stretch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.active, s)
	f.wake()
}

// pause waits before the source is asked again after err, or returns why it
// is not to be asked again.
func (f *flight) pause(err error, tries int) error {
	most := triesAtStart
	if f.receivedNow() > 0 {
		most = triesMidway
	}
	if errors.Is(err, ErrStalled) {
		most = stallsAtStart
		if f.receivedNow() > 0 {
			most = stallsMidway
		}
	}
	if err := rest(f.ctx, err, tries, most); err != nil {
		return err
	}
	f.store.log.Info("transfer goes on after a break", "digest", f.digest, "try", tries, "error", err)
	return nil
}

// rest waits before a source is asked again after err, for the given try of at
// most most; or returns why it is not to be asked again.
func rest(ctx context.Context, err error, tries, most int) error {
	var storage *StorageError
	var size *SizeError // a source of another blob: the next one may have this
	if ctx.Err() != nil || permanent(err) || errors.As(err, &storage) || errors.As(err, &size) {
		return err
	}
	wait := min(firstPause<<min(tries-1, 10), lastPause)
	wait += rand.N(wait / 4) // many flights broke at once: not all ask again at once
	wanted := retryAfter(err)
	if wanted > 0 {
		most = min(most, triesWhenLimited)
	}
	if tries >= most || wanted > patience {
		return err
	}
	timer := time.NewTimer(max(wait, wanted))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// request is what to ask the source for: the whole by a plain request, which
// every registry knows.
func (f *flight) request(s *stretch) (pos, end int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.pos == 0 && (s.end < 0 || s.end == f.size) {
		return 0, -1
	}
	return s.pos, s.end
}

// agree checks an answer against what was asked and what is known, and tells
// readers that there is one.
func (f *flight) agree(s *stretch, body *Body, asked int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.aside && body.Offset != asked {
		return errNoRanges
	}
	if body.Offset > asked {
		return fmt.Errorf("asked for bytes from %d, the source sends from %d", asked, body.Offset)
	}
	if body.Size >= 0 {
		if f.size >= 0 && f.size != body.Size {
			return &SizeError{Digest: f.digest, Want: f.size, Got: body.Size}
		}
		f.size = body.Size
		for s := range f.active {
			if s.end < 0 {
				s.end = f.size
			}
		}
	}
	f.alone = f.alone || body.Offset != asked
	f.answered = true
	f.wake()
	return nil
}

// drain reads the body until the stretch is full. What stands before the
// stretch, from a source that ignores ranges, is dropped.
func (f *flight) drain(s *stretch, body *Body, read func([]byte) (int, error)) error {
	buf := chunks.Get().(*[]byte)
	defer chunks.Put(buf)
	at := body.Offset
	for {
		n, err := read(*buf)
		full, kerr := f.keep(s, (*buf)[:n], at)
		if kerr != nil || full {
			return kerr
		}
		at += int64(n)
		if err == io.EOF {
			return f.finish(s)
		}
		if err != nil {
			return err
		}
	}
}

// finish judges a body that ended cleanly before its stretch was full: right
// only when nobody knew the size, which is known now.
func (f *flight) finish(s *stretch) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.end >= 0 {
		return io.ErrUnexpectedEOF
	}
	s.end, f.size = s.pos, s.pos
	return nil
}

// keep writes the part of a chunk, which stands at offset at, that belongs to
// the stretch, and lets readers have it. full means that the stretch is done.
func (f *flight) keep(s *stretch, chunk []byte, at int64) (full bool, err error) {
	chunk, at, full = f.take(s, chunk, at)
	if len(chunk) == 0 {
		return full, nil
	}
	if _, err := f.part.file.WriteAt(chunk, at); err != nil {
		return false, storageError("write blob", err)
	}
	f.mu.Lock()
	s.kept = at + int64(len(chunk))
	f.have.add(at, s.kept)
	f.received += int64(len(chunk))
	received := f.received
	f.wake()
	f.mu.Unlock()
	f.store.counts.fetched.Add(int64(len(chunk)))
	f.part.hash(chunk, at)
	f.part.progress(received, f.journal)
	return full, nil
}

// take claims the part of a chunk that belongs to the stretch, before it is
// written: what one request writes no other does.
func (f *flight) take(s *stretch, chunk []byte, at int64) ([]byte, int64, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if skip := min(s.pos-at, int64(len(chunk))); skip > 0 {
		chunk, at = chunk[skip:], at+skip
	}
	if s.end >= 0 && at+int64(len(chunk)) > s.end {
		chunk = chunk[:max(s.end-at, 0)]
	}
	if len(chunk) > 0 {
		s.pos = at + int64(len(chunk))
	}
	return chunk, at, s.end >= 0 && s.pos >= s.end
}

// prove hashes what is left to hash and compares.
func (f *flight) prove() error {
	f.aside.Wait()
	got, err := f.part.sum(f.frontier())
	if err != nil {
		return storageError("read back", err)
	}
	if got != f.digest {
		wrong := &DigestError{Want: f.digest, Got: got}
		reject(f.source, wrong)
		return wrong
	}
	return nil
}

// journal is what the next process must know of the partial file.
func (f *flight) journal() journal {
	f.mu.Lock()
	defer f.mu.Unlock()
	return journal{Digest: f.digest, Size: f.size, Have: append(spans(nil), f.have...)}
}

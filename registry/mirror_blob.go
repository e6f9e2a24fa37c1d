package registry

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/imagecache/imagecache/layerstore"
)

// mirroredBlob is a blob of an upstream that has mirrors: they are asked in
// order, and then upstream. One that breaks off, is silent, or has another blob
// is not asked for this one again, so that the transfer goes on from the same
// byte at the next.
type mirroredBlob struct {
	blobSource // of upstream itself

	mu   sync.Mutex // guards what follows
	gave map[*upstream]bool
	out  map[*upstream]bool
	open map[*mirrorBody]bool
}

// silentFor is how long a body must have been waited for, when somebody asks for
// the same or another part, that the next mirror is asked for it: a transfer
// has a silent request overtaken by another before it gives it up.
const silentFor = 250 * time.Millisecond

// Open implements [layerstore.Source].
func (s *mirroredBlob) Open(ctx context.Context, offset, end int64) (*layerstore.Body, error) {
	for _, m := range s.u.mirrors {
		if s.isOut(m) || !m.willing(subjectBlob, s.digest.String()) {
			continue
		}
		body, err := s.openAt(ctx, m, offset, end)
		if err == nil {
			return body, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		s.u.env.log.Debug("mirror does not send a blob, the next is asked", "upstream", s.u.name, "mirror", m.name, "digest", s.digest, "error", err)
		s.drop(m)
	}
	if why := s.u.closedFor(subjectBlob); why != nil {
		return nil, s.explain(why)
	}
	return s.blobSource.Open(ctx, offset, end)
}

var errMirrorSlow = errors.New("the mirror is slow")

// openAt asks one mirror, whose answer must begin within patience; the body
// may take as long as it takes.
func (s *mirroredBlob) openAt(ctx context.Context, m *upstream, offset, end int64) (*layerstore.Body, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	slow := time.AfterFunc(s.u.env.patience, func() { cancel(errMirrorSlow) })
	body, err := blobSource{u: m, path: s.path, digest: s.digest}.Open(ctx, offset, end)
	if !slow.Stop() && context.Cause(ctx) == errMirrorSlow {
		m.slow(s.u.env.patience)
	}
	if err != nil {
		cancel(nil)
		return nil, err
	}
	if s.witness != nil {
		s.witness.mirror.Store(true)
	}
	opened := &mirrorBody{ReadCloser: body.ReadCloser, s: s, m: m, done: cancel, left: bytesOf(body, end)}
	body.ReadCloser = opened
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.gave, s.open = map[*upstream]bool{}, map[*mirrorBody]bool{}
	}
	s.gave[m], s.open[opened] = true, true
	return body, nil
}

// bytesOf is how many bytes a body that was asked for up to end should have,
// -1 when nobody knows.
func bytesOf(body *layerstore.Body, end int64) int64 {
	if end < 0 {
		end = body.Size
	}
	if end < 0 {
		return -1
	}
	return end - body.Offset
}

// Reject implements [layerstore.Rejecter]: whoever gave bytes of what proved
// wrong is not asked for it again soon.
func (s *mirroredBlob) Reject() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for m := range s.gave {
		m.lied(s.digest)
	}
}

func (s *mirroredBlob) drop(m *upstream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out == nil {
		s.out = map[*upstream]bool{}
	}
	s.out[m] = true
}

// isOut reports whether a mirror has failed this blob, or is silent about it.
func (s *mirroredBlob) isOut(m *upstream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for b := range s.open {
		if b.m == m && b.silent() {
			return true
		}
	}
	return s.out[m]
}

// mirrorBody notices when a mirror breaks off, or is given up for its silence.
type mirrorBody struct {
	io.ReadCloser
	s    *mirroredBlob
	m    *upstream
	done context.CancelCauseFunc
	left int64 // bytes that are to come, below 0 when nobody knows

	waits atomic.Int64 // since when a Read does, in Unix nanoseconds; 0: none does
}

func (b *mirrorBody) silent() bool {
	since := b.waits.Load()
	return since != 0 && time.Since(time.Unix(0, since)) >= silentFor
}

func (b *mirrorBody) Read(p []byte) (int, error) {
	b.waits.Store(time.Now().UnixNano())
	n, err := b.ReadCloser.Read(p)
	b.waits.Store(0)
	if b.left >= 0 {
		b.left = max(b.left-int64(n), 0)
	}
	if err != nil && (err != io.EOF || b.left > 0) {
		b.s.drop(b.m)
	}
	return n, err
}

// Close closes the body.
func (b *mirrorBody) Close() error {
	defer b.done(nil)
	b.s.mu.Lock()
	delete(b.s.open, b)
	b.s.mu.Unlock()
	return b.ReadCloser.Close()
}

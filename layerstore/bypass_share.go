package layerstore

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// A window of a stream, in bytes: as far as readers of one transfer may be
	// apart. Clients of one pull that fails begin within a socket's buffer.
	windowSize = 2 << 20
	// Streams that are shared at one time: 32 MiB. Who comes beyond asks for
	// itself and keeps nothing in memory.
	streamsMost = 16
)

// errBehind: the reader is slower than others, and what it needs next is not in
// memory any more. It asks for itself.
var errBehind = errors.New("fell behind those who read the same")

// streams are the requests of readers that go past the store, by what they ask for.
type streams struct {
	mu  sync.Mutex // guards all
	all map[digest.Digest][]*stream
	n   int
}

// stream is one body of a source for all readers that are at about the same
// place. The last windowSize bytes of it are in memory and nothing is on disk;
// nobody waits for a slow reader, who falls out of the window instead.
type stream struct {
	store  *Store
	digest digest.Digest
	begin  int64 // asked for: [begin, end), end -1 is to the end
	end    int64
	cancel context.CancelCauseFunc
	wanted chan struct{} // holds a token while somebody waits at the head

	mu      sync.Mutex // guards what follows; taken after streams.mu
	body    *Body      // nil until the source has agreed
	window  []byte     // the byte at offset o stands at o % len(window)
	from    int64      // the window holds [from, head)
	head    int64
	err     error // why nothing more comes; io.EOF at the end of the body
	closed  bool  // nobody else may follow
	readers int
	changed chan struct{} // closed at the next change
}

// openShared opens a body for a reader that wants [at, end): that of a stream
// which is near, or a new one. Of what proved wrong lately each gets its own: his
// source may be the one that is right.
func (s *Store) openShared(ctx context.Context, d digest.Digest, src Source, at, end int64) (*Body, error) {
	if _, local := src.(readBack); local || s.suspects.has(d) {
		return src.Open(ctx, at, end)
	}
	t, own := s.stream(d, src, at, end)
	if t == nil {
		return src.Open(ctx, at, end)
	}
	r := &shared{stream: t, ctx: ctx, at: at}
	err := r.opened()
	if err == nil {
		return &Body{ReadCloser: r, Offset: r.at, Size: t.body.Size}, nil
	}
	r.Close()
	if own || ctx.Err() != nil {
		return nil, err
	}
	return src.Open(ctx, at, end) // the other's source may be one with less right
}

// stream finds a stream to follow, or begins one; own says which. It is nil
// when there are too many.
func (s *Store) stream(d digest.Digest, src Source, at, end int64) (t *stream, own bool) {
	s.streams.mu.Lock()
	defer s.streams.mu.Unlock()
	for _, t := range s.streams.all[d] {
		if t.take(at, end) {
			return t, false
		}
	}
	if s.streams.n >= streamsMost {
		return nil, false
	}
	ctx, cancel := context.WithCancelCause(s.ctx)
	t = &stream{
		store: s, digest: d, begin: at, end: end, cancel: cancel, wanted: make(chan struct{}, 1),
		from: at, head: at, readers: 1, changed: make(chan struct{}),
	}
	if s.streams.all == nil {
		s.streams.all = map[digest.Digest][]*stream{}
	}
	s.streams.all[d] = append(s.streams.all[d], t)
	s.streams.n++
	go t.run(ctx, src)
	return t, true
}

// take counts a reader that wants [at, end), if the stream has that or will
// have it soon.
func (t *stream) take(at, end int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.err != nil || at < t.from || at > t.head+windowSize {
		return false
	}
	if t.end >= 0 && (end < 0 || end > t.end) {
		return false
	}
	t.readers++
	return true
}

// leave ends the following of one reader, and the stream with the last one. A
// stream that is silent is not followed by others.
func (t *stream) leave(silent bool) {
	all := &t.store.streams
	all.mu.Lock()
	defer all.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.readers--
	t.closed = t.closed || silent || t.readers == 0
	if t.readers == 0 {
		t.cancel(nil)
		t.window = nil
		all.n--
		all.drop(t)
	}
}

// drop takes a stream off the table. all.mu is held.
func (all *streams) drop(t *stream) {
	rest := all.all[t.digest][:0]
	for _, other := range all.all[t.digest] {
		if other != t {
			rest = append(rest, other)
		}
	}
	if all.all[t.digest] = rest; len(rest) == 0 {
		delete(all.all, t.digest)
	}
}

// run opens the body and reads from it as long as somebody waits for bytes.
func (t *stream) run(ctx context.Context, src Source) {
	defer t.cancel(nil)
	body, err := src.Open(ctx, t.begin, t.end)
	if err != nil {
		t.came(nil, err)
		return
	}
	defer body.Close()
	t.agreed(body)
	buf := chunks.Get().(*[]byte)
	defer chunks.Put(buf)
	for err == nil {
		select {
		case <-t.wanted:
		case <-ctx.Done():
			return
		}
		var n int
		n, err = t.listen(body, *buf)
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = cause
		}
		t.came((*buf)[:n], err)
	}
}

// listen reads once; silence is a break, told by whoever waits longest.
func (t *stream) listen(body *Body, p []byte) (int, error) {
	silent := time.AfterFunc(t.store.stall<<3, func() { t.cancel(ErrStalled) })
	defer silent.Stop()
	return body.Read(p)
}

func (t *stream) agreed(body *Body) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.body, t.from, t.head = body, body.Offset, body.Offset
	t.wake()
}

// came takes in what the body gave.
func (t *stream) came(p []byte, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.window == nil && t.readers > 0 && len(p) > 0 {
		t.window = make([]byte, t.windowBytes())
	}
	if t.window != nil {
		for len(p) > 0 {
			n := copy(t.window[t.head%int64(len(t.window)):], p)
			p, t.head = p[n:], t.head+int64(n)
		}
		t.from = max(t.from, t.head-int64(len(t.window)))
	}
	t.err = err
	t.wake()
}

// windowBytes is how large the window is: small for a small blob.
func (t *stream) windowBytes() int64 {
	if size := t.body.Size; size > 0 && size < windowSize {
		return size
	}
	return windowSize
}

// wake tells everybody who waits to look again. t.mu is held.
func (t *stream) wake() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// shared is what one reader has of a stream.
type shared struct {
	*stream
	ctx    context.Context
	at     int64
	silent bool
	once   sync.Once
}

// opened waits until the source has agreed.
func (r *shared) opened() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.body == nil {
		if r.err != nil {
			return r.err
		}
		if err := r.await(); err != nil {
			return err
		}
	}
	// A source may begin earlier than it was asked to. What is not in the window
	// yet is read and dropped by the reader.
	r.at = min(r.at, r.head)
	return nil
}

// Read gives what is in the window, or waits for more.
func (r *shared) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		switch {
		case r.at < r.from:
			return 0, errBehind
		case r.at < r.head:
			n := copy(p[:min(int64(len(p)), r.head-r.at)], r.window[r.at%int64(len(r.window)):])
			r.at += int64(n)
			return n, nil
		case r.err != nil:
			return 0, r.err
		}
		select {
		case r.wanted <- struct{}{}:
		default:
		}
		if err := r.await(); err != nil {
			r.silent = err == ErrStalled
			return 0, err
		}
	}
}

// await waits for a change. r.mu is held, and held again when it returns.
func (r *shared) await() error {
	changed := r.changed
	r.mu.Unlock()
	defer r.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	}
}

// Close leaves the stream to the others.
func (r *shared) Close() error {
	r.once.Do(func() { r.leave(r.silent) })
	return nil
}

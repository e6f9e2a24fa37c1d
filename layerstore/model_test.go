package layerstore_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/storetest"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	"pgregory.net/rapid"
)

// TestModel lets a random sequence of everything that may happen to a store
// happen, in a bubble where time is free, and compares it with a model that
// fits on a screen: a blob is here or not. See world.check for what must hold.
// More rounds: go test -run TestModel ./layerstore -rapid.checks=10000
func TestModel(t *testing.T) {
	fewer(t)
	folder := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		root, err := os.MkdirTemp(folder, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(root)
		rapid.SyncTest(t, func(t *rapid.T) {
			w := newWorld(t, root)
			defer w.stop()
			t.Repeat(w.actions())
			w.end()
		})
	})
}

// fewer makes rapid's default, 100 rounds, one that a short test run can bear. What was asked for on the command line stays.
func fewer(t *testing.T) {
	checks := flag.Lookup("rapid.checks")
	if before := checks.Value.String(); before == checks.DefValue {
		must(t, checks.Value.Set("20"))
		t.Cleanup(func() { must(t, checks.Value.Set(before)) })
	}
}

// presence is all that the model knows of a blob.
type presence int

const (
	absent presence = iota
	flying          // it was asked for: it is on its way, or here, or failed
	here
)

// subject is a blob, its source, and what the model knows of it.
type subject struct {
	world   *world
	n       int
	content []byte
	desc    specs.Descriptor
	source  *storetest.Source

	state   presence
	flight  bool         // there may be a flight, also of what is here: it was put meanwhile
	lying   bool         // while flying: the source lied or refused, so that it may fail
	lost    bool         // it rotted or vanished, and did not come back
	refs    map[int]bool // what it refers to
	budget  int64        // bytes that its source may have sent by now
	written int64        // bytes in its ingest

	mu     sync.Mutex         // guards script
	script []storetest.Answer // to the next requests; then faithful ones
}

// answer is the source's script.
func (s *subject) answer(int, storetest.Request) storetest.Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.script) == 0 {
		return storetest.Answer{}
	}
	next := s.script[0]
	s.script = s.script[1:]
	return next
}

func (s *subject) size() int64 { return int64(len(s.content)) }

// seal is told that the blob is here: nothing more may be asked of its source,
// but by a flight that goes on.
func (s *subject) seal() {
	s.state, s.lying, s.lost = here, false, false
	s.tell()
	if !s.flight {
		s.budget = s.source.Sent()
	}
}

// tell replaces the script: what was not asked for is forgotten.
func (s *subject) tell(script ...storetest.Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = script
}

// lose is told that the blob is gone: it may be asked for once more.
func (s *subject) lose() {
	s.state = absent
	s.budget = s.source.Sent() + s.size()
	if s.flight { // which may bring it yet
		s.state, s.lying = flying, true
		s.budget += s.size()
	}
}

// land is told that no flight is left.
func (s *subject) land() {
	s.flight = false
	switch s.state {
	case flying:
		if !s.lying {
			s.world.Fatalf("blob %d did not come, though its source was true", s.n)
		}
		s.state, s.lying = absent, false
	case here:
		s.budget = s.source.Sent()
	}
	s.tell()
}

// world is a store, those who use it, and the model.
type world struct {
	*rapid.T
	root    string // of this world's folder
	store   *layerstore.Store
	opened  int // stores so far
	maxSize int64
	blobs   []*subject
	readers []*reader
	hold    chan struct{} // sources that were told to wait do so until it is closed
	roots   map[string]int
	leases  map[int]*layerstore.Lease

	mu   sync.Mutex // guards gone
	gone []digest.Digest
}

// The largest is one that a reader can be far ahead in, and the one before it
// one whose partial file is gone on with.
var modelSizes = []int{120, 3000, 0, 70 << 10, 3 << 19, 6 << 20}

// modelBlobs are their contents and descriptors, made once.
var modelBlobs = sync.OnceValues(func() (contents [][]byte, descs []specs.Descriptor) {
	for n, size := range modelSizes {
		content := random(size)
		for i := range min(size, 8) {
			content[i] = byte(n)
		}
		contents, descs = append(contents, content), append(descs, describe(content))
	}
	return contents, descs
})

func newWorld(t *rapid.T, root string) *world {
	w := &world{
		T: t, root: root, hold: make(chan struct{}), roots: map[string]int{}, leases: map[int]*layerstore.Lease{},
		maxSize: rapid.SampledFrom([]int64{0, 10 << 20}).Draw(t, "max size"),
	}
	contents, descs := modelBlobs()
	for n, content := range contents {
		s := &subject{world: w, n: n, content: content, desc: descs[n], refs: map[int]bool{}, budget: int64(len(content))}
		s.source = &storetest.Source{Content: content, Script: s.answer}
		w.blobs = append(w.blobs, s)
	}
	w.open(filepath.Join(root, "0"))
	return w
}

func (w *world) open(root string) {
	w.Helper()
	store, err := layerstore.Open(layerstore.Options{Root: root, MaxSize: w.maxSize, ScrubRate: -1})
	if err != nil {
		w.Fatal("open:", err)
	}
	w.store = store
	w.opened++
	store.OnEvict(func(gone []digest.Digest) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.gone = append(w.gone, gone...)
	})
}

func (w *world) must(what string, err error) {
	w.Helper()
	if err != nil {
		w.Fatalf("%s: %v", what, err)
	}
}

// stop ends everything, so that the bubble can.
func (w *world) stop() {
	close(w.hold)
	for _, r := range w.readers {
		r.leave()
	}
	if w.store != nil {
		w.store.Close()
	}
}

// end lets everything come to its end, and then asks for everything once more.
func (w *world) end() {
	w.goOn(w.T)
	w.timePasses(w.T)
	w.check(w.T)
	w.restart(w.T)
	for _, s := range w.blobs {
		if s.state == here {
			w.wantContent(s)
		}
		w.fetch(s, 0, s.size(), false)
		w.check(w.T)
		if s.state != here {
			w.Fatalf("blob %d is not here after a faithful fetch", s.n)
		}
	}
	w.must("close", w.store.Close())
	w.store = nil
}

func (w *world) wantContent(s *subject) {
	w.Helper()
	f, err := os.Open(blobPath(w.store.Root(), s.desc.Digest))
	w.must("open blob", err)
	defer f.Close()
	if got, err := digest.FromReader(f); err != nil || got != s.desc.Digest {
		w.Fatalf("blob %d was sealed with bytes that hash to %s (%v)", s.n, got, err)
	}
}

// check is what must hold whenever nothing runs.
func (w *world) check(*rapid.T) {
	synctest.Wait()
	w.learnEvictions()
	flights := w.store.Flights()
	blobs, size, inFlight := int64(0), int64(0), false
	for _, s := range w.blobs {
		// Where collections run by themselves nobody tells when one took what
		// had come: of the two that leave a partial file.
		if sent := s.source.Sent(); sent > s.budget && (w.maxSize == 0 || s.size() < mib) {
			w.Fatalf("the source of blob %d sent %d bytes more than it had to", s.n, sent-s.budget)
		}
		w.checkBlob(s, flights)
		if s.state == here {
			blobs, size = blobs+1, size+s.size()
		}
		inFlight = inFlight || s.flight
		if n := s.source.OpenBodies(); flights == 0 && n > 0 {
			w.Fatalf("%d bodies of blob %d were not closed", n, s.n)
		}
	}
	if st, err := w.store.Stats(); !inFlight && (err != nil || st.Blobs != blobs || st.Bytes != size) {
		w.Fatalf("%d blobs of %d bytes are counted, %d of %d are here (%v)", st.Blobs, st.Bytes, blobs, size, err)
	}
	w.checkLost()
	w.checkReaders()
}

// checkBlob compares what the store says of a blob with the model.
func (w *world) checkBlob(s *subject, flights int) {
	info, err := w.store.Stat(s.desc.Digest)
	if err != nil && !errors.Is(err, layerstore.ErrNotFound) {
		w.Fatalf("blob %d: %v", s.n, err)
	}
	switch {
	case err == nil && info.Size != s.size():
		w.Fatalf("blob %d has %d bytes, want %d", s.n, info.Size, s.size())
	case err == nil && s.state == absent:
		w.Fatalf("blob %d is here and should not be", s.n)
	case err != nil && s.state == here:
		w.Fatalf("blob %d should be here and is not", s.n)
	case err == nil && s.state == flying:
		s.seal()
		w.wantContent(s)
	}
	if flights == 0 {
		s.land()
	}
}

func (w *world) checkLost() {
	lost := map[digest.Digest]bool{}
	for _, l := range w.store.Lost() {
		lost[l.Digest] = true
	}
	for _, s := range w.blobs {
		if lost[s.desc.Digest] != s.lost {
			w.Fatalf("blob %d lost: %v, want %v", s.n, lost[s.desc.Digest], s.lost)
		}
	}
}

// learnEvictions tells the model what went, if it was allowed to go.
func (w *world) learnEvictions() {
	w.mu.Lock()
	gone := w.gone
	w.gone = nil
	w.mu.Unlock()
	kept := w.reach(w.kept()...)
	for _, d := range gone {
		s := w.blobOf(d)
		if kept[s.n] {
			w.Fatalf("blob %d was evicted, though it is kept", s.n)
		}
		for _, r := range w.readers {
			if r.of == s && r.store == w.store && r.opened && !r.done() {
				w.Fatalf("blob %d was evicted, though it is being read", s.n)
			}
		}
		s.refs = map[int]bool{}
		s.lost = false // it had come back
		s.lose()
	}
}

func (w *world) blobOf(d digest.Digest) *subject {
	for _, s := range w.blobs {
		if s.desc.Digest == d {
			return s
		}
	}
	w.Fatalf("nobody asked for %s", d)
	return nil
}

// kept are the blobs that a root or a lease names.
func (w *world) kept() (blobs []int) {
	for _, n := range w.roots {
		blobs = append(blobs, n)
	}
	for n := range w.leases {
		blobs = append(blobs, n)
	}
	return blobs
}

// reach is what can be reached from blobs by references, themselves included.
func (w *world) reach(from ...int) map[int]bool {
	reached := map[int]bool{}
	for len(from) > 0 {
		n := from[0]
		from = from[1:]
		if !reached[n] {
			reached[n] = true
			for child := range w.blobs[n].refs {
				from = append(from, child)
			}
		}
	}
	return reached
}

// stands reports whether a blob that is here needs s.
func (w *world) stands(s *subject) bool {
	for _, p := range w.blobs {
		if p != s && p.refs[s.n] && (p.state == here || w.stands(p)) {
			return true
		}
	}
	return false
}

// reader is somebody who reads a blob, or a part of it.
type reader struct {
	of       *subject
	store    *layerstore.Store
	off, n   int64
	leave    context.CancelFunc
	goOn     chan struct{} // in the middle it waits until it is closed; nil: it does not
	told     bool          // it is closed
	excused  bool          // its source lied, or its store was closed: it may get an error
	left     bool
	finished chan struct{}

	// Written by the reader, read when the bubble stands still.
	opened  bool
	outcome layerstore.Outcome
	got     []byte
	err     error
}

func (r *reader) done() bool {
	select {
	case <-r.finished:
		return true
	default:
		return false
	}
}

func (r *reader) whole() bool { return r.off == 0 && r.n == r.of.size() }

// fetch begins to read [off, off+n) of a blob.
func (w *world) fetch(s *subject, off, n int64, pausing bool) *reader {
	ctx, leave := context.WithCancel(context.Background())
	r := &reader{of: s, store: w.store, off: off, n: n, leave: leave, excused: s.lying, finished: make(chan struct{})}
	if pausing {
		r.goOn = make(chan struct{})
	}
	if s.state == absent {
		s.state, s.flight = flying, true
	}
	w.readers = append(w.readers, r)
	go func() {
		defer close(r.finished)
		r.got, r.err = r.read(ctx)
	}()
	synctest.Wait()
	return r
}

func (r *reader) read(ctx context.Context) (got []byte, err error) {
	b, err := r.store.Fetch(ctx, r.of.desc, r.of.source)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	r.opened, r.outcome = true, b.Outcome()
	if _, err := b.Seek(r.off, io.SeekStart); err != nil {
		return nil, err
	}
	got = make([]byte, r.n)
	half := 0
	if r.goOn != nil {
		half = len(got) / 2
		if _, err := io.ReadFull(b, got[:half]); err != nil {
			return nil, err
		}
		select {
		case <-r.goOn:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if _, err := io.ReadFull(b, got[half:]); err != nil {
		return nil, err
	}
	if r.whole() { // only the end of the stream says that the blob is true
		if _, err := b.Read(make([]byte, 1)); err != io.EOF {
			return nil, fmt.Errorf("no end behind the last byte: %w", err)
		}
	}
	return got, nil
}

// checkReaders looks at those who are done: what they completed is true, and
// who got an error had a source that lied, or left.
func (w *world) checkReaders() {
	var waiting []*reader
	for _, r := range w.readers {
		if !r.done() {
			waiting = append(waiting, r)
			continue
		}
		want := r.of.content[r.off : r.off+r.n]
		right := bytes.Equal(r.got, want)
		switch {
		case r.err != nil && !r.excused && !r.left:
			w.Fatalf("a reader of blob %d [%d, +%d) got %v", r.of.n, r.off, r.n, r.err)
		case r.err == nil && !right && (r.whole() || !r.excused):
			w.Fatalf("a reader of blob %d [%d, +%d) completed %d wrong bytes", r.of.n, r.off, r.n, len(r.got))
		}
	}
	w.readers = waiting
}

// excuse is told that errors may come to those who read s.
func (w *world) excuse(s *subject) {
	s.lying = true
	for _, r := range w.readers {
		r.excused = r.excused || r.of == s
	}
}

// crashed goes on with a copy of the disk, as a process does after a kill -9.
func (w *world) crashed() {
	w.Helper()
	from, to := w.store.Root(), filepath.Join(w.root, string(rune('a'+w.opened%26)))
	w.must("remove", os.RemoveAll(to))
	w.must("copy", os.CopyFS(to, os.DirFS(from)))
	w.reopen(to)
}

// reopen closes the store and opens the one at root.
func (w *world) reopen(root string) {
	w.Helper()
	for _, r := range w.readers {
		// Who reads a sealed blob reads on.
		r.left = r.left || !r.opened || r.outcome != layerstore.Hit
	}
	for n, l := range w.leases {
		l.Release()
		delete(w.leases, n)
	}
	synctest.Wait()
	w.learnEvictions() // the last lease may have been all that held back a collection
	w.must("close", w.store.Close())
	for _, s := range w.blobs {
		if s.state == flying {
			s.state, s.lying = absent, false
		}
		if s.flight && s.size() < 1<<20 {
			s.budget += s.size() // fetched anew rather than gone on with
		}
		s.flight = false
	}
	w.open(root)
}

// drawBlob chooses a blob.
func (w *world) drawBlob(t *rapid.T) *subject {
	return w.blobs[rapid.IntRange(0, len(w.blobs)-1).Draw(t, "blob")] // the draw is printed, a blob is long
}

// minute is enough for all tries and stalls of a script.
const minute = 2 * time.Minute

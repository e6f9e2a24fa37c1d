package layerstore_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/storetest"
	"github.com/opencontainers/go-digest"
)

// clock is one that only the test moves.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

const (
	day  = 24 * time.Hour
	aged = 8 * day // older than a proof counts by default
)

// damage is one way in which a file rots.
type damage struct {
	name string
	do   func(t *testing.T, path string, size int64)
	// A fresh hit finds it out without reading.
	seen bool
	// Nothing is left to be put into quarantine.
	gone bool
}

func flip(at func(size int64) int64) func(t *testing.T, path string, size int64) {
	return func(t *testing.T, path string, size int64) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		must(t, err)
		defer f.Close()
		b := make([]byte, 1)
		_, err = f.ReadAt(b, at(size))
		must(t, err)
		b[0] ^= 1
		_, err = f.WriteAt(b, at(size))
		must(t, err)
	}
}

func flipFirst(int64) int64       { return 0 }
func flipMiddle(size int64) int64 { return size / 2 }
func flipLast(size int64) int64   { return size - 1 }

func truncateTo(to func(size int64) int64) func(t *testing.T, path string, size int64) {
	return func(t *testing.T, path string, size int64) { must(t, os.Truncate(path, to(size))) }
}

var damages = []damage{
	{name: "first byte flipped", do: flip(flipFirst)},
	{name: "middle byte flipped", do: flip(flipMiddle)},
	{name: "last byte flipped", do: flip(flipLast)},
	{name: "truncated by a byte", do: truncateTo(func(size int64) int64 { return size - 1 }), seen: true},
	{name: "truncated to nothing", do: truncateTo(func(int64) int64 { return 0 }), seen: true},
	{name: "extended", do: truncateTo(func(size int64) int64 { return size + 1 }), seen: true},
	{name: "removed", do: func(t *testing.T, path string, _ int64) { must(t, os.Remove(path)) }, seen: true, gone: true},
	{name: "replaced by a folder", do: func(t *testing.T, path string, _ int64) {
		must(t, os.Remove(path))
		must(t, os.MkdirAll(filepath.Join(path, "inside"), 0o700))
	}, seen: true},
	{name: "replaced by a link to itself", do: func(t *testing.T, path string, _ int64) {
		must(t, os.Remove(path))
		must(t, os.Symlink(path, path))
	}, seen: true},
}

// shed is a store with one blob of each size, and a source for each.
type shed struct {
	*testing.T
	*layerstore.Store
	clock *clock
	root  string
	blobs [][]byte
}

// Sizes on both sides of the border between hashing first and hashing beside.
var rotSizes = []int{1, 64 << 10, 64<<10 + 1, mib + 17}

func newShed(t *testing.T, sizes ...int) *shed {
	t.Helper()
	s := &shed{T: t, clock: newClock(), root: filepath.Join(t.TempDir(), "store")}
	s.start()
	for i, size := range sizes {
		content := random(size)
		content[0] = byte(i) // or those of one size would be one blob
		must(t, s.Put(t.Context(), describe(content), content))
		s.blobs = append(s.blobs, content)
	}
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *shed) start() {
	s.Helper()
	s.Store = open(s.T, layerstore.Options{Root: s.root, Now: s.clock.now, ScrubRate: -1})
}

func (s *shed) stop() {
	s.Helper()
	if err := s.Close(); err != nil {
		s.Errorf("close: %v", err)
	}
}

// settle returns when what is being sealed is counted too: a removal, here of
// nothing, waits for it.
func (s *shed) settle() {
	s.Helper()
	_, err := s.Remove(nil, nil)
	must(s.T, err)
}

func (s *shed) spoil(content []byte, d damage) {
	s.Helper()
	d.do(s.T, blobPath(s.root, digest.FromBytes(content)), int64(len(content)))
}

// fetch reads a blob as a client does: nil and an error when it was cut.
func (s *shed) fetch(content []byte, src layerstore.Source) ([]byte, layerstore.Outcome, error) {
	s.Helper()
	b, err := s.Fetch(context.Background(), describe(content), src)
	if err != nil {
		return nil, 0, err
	}
	defer b.Close()
	got, err := io.ReadAll(b)
	if err != nil && int64(len(got)) == b.Size() {
		s.Errorf("all %d bytes were given before the error %v", len(got), err)
	}
	return got, b.Outcome(), err
}

func (s *shed) wantWhole(content []byte, src layerstore.Source, want layerstore.Outcome) {
	s.Helper()
	got, outcome, err := s.fetch(content, src)
	if err != nil || !bytes.Equal(got, content) {
		s.Fatalf("%d of %d bytes, right: %t, error %v", len(got), len(content), bytes.Equal(got, content), err)
	}
	if outcome != want {
		s.Errorf("outcome %v, want %v", outcome, want)
	}
}

func (s *shed) quarantined() []string {
	s.Helper()
	files, err := filepath.Glob(filepath.Join(s.root, "quarantine", "*"))
	must(s.T, err)
	return files
}

// wantTaken checks the traces of one rotten blob that was taken away.
func (s *shed) wantTaken(content []byte, d damage) {
	s.Helper()
	files, quarantined := 1, int64(1)
	if d.gone {
		files, quarantined = 0, 0
	}
	if got := s.quarantined(); len(got) != files {
		s.Errorf("in quarantine: %v", got)
	}
	if got := s.Integrity(); got.Quarantined != quarantined {
		s.Errorf("%+v, want %d quarantined", got, quarantined)
	}
}

func (s *shed) wantLost(content []byte) {
	s.Helper()
	lost := s.Lost()
	if len(lost) != 1 || lost[0].Digest != digest.FromBytes(content) || lost[0].Size != int64(len(content)) || lost[0].Why == "" {
		s.Errorf("lost: %+v", lost)
	}
	wantUnknown(s.T, s.Store, digest.FromBytes(content))
}

func eachDamage(t *testing.T, sizes []int, test func(s *shed, content []byte, d damage)) {
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			for _, size := range sizes {
				s := newShed(t, size)
				s.spoil(s.blobs[0], d)
				test(s, s.blobs[0], d)
			}
		})
	}
}

func TestRotAtAFreshHit(t *testing.T) {
	eachDamage(t, rotSizes, func(s *shed, content []byte, d damage) {
		s.clock.advance(6 * day)
		src := storetest.NewSource(content)
		if d.seen {
			s.wantWhole(content, src, layerstore.Miss)
			s.wantTaken(content, d)
			return
		}
		// What the documents say: between two proofs a flipped bit is served.
		got, outcome, err := s.fetch(content, src)
		if err != nil || outcome != layerstore.Hit || bytes.Equal(got, content) || len(got) != len(content) {
			s.Errorf("%d bytes, right: %t, %v, error %v", len(got), bytes.Equal(got, content), outcome, err)
		}
	})
}

func TestRotAtAnAgedHit(t *testing.T) {
	eachDamage(t, rotSizes, func(s *shed, content []byte, d damage) {
		s.clock.advance(aged)
		src := storetest.NewSource(content)
		got, _, err := s.fetch(content, src)
		var rot *layerstore.RotError
		if err != nil && !errors.As(err, &rot) {
			s.Errorf("cut by %v", err)
		}
		if err == nil && !bytes.Equal(got, content) {
			s.Fatalf("completed with %d wrong bytes", len(got))
		}
		s.wantTaken(content, d)
		if err != nil {
			s.wantWhole(content, src, layerstore.Miss)
		}
		must(s.T, s.Ensure(s.Context(), describe(content), nil, nil))
		s.wantWhole(content, nil, layerstore.Hit)
		s.settle()
		if got := s.Integrity(); got.Lost != 0 || got.Repaired != 1 {
			s.Errorf("%+v", got)
		}
		if len(src.Requests()) != 1 {
			s.Errorf("the source was asked %v", src.Requests())
		}
		wantStats(s.T, s.Store, 1, int64(len(content)))
	})
}

func TestEnsureOfRotFetchesItAnew(t *testing.T) {
	eachDamage(t, []int{1000, mib}, func(s *shed, content []byte, d damage) {
		s.clock.advance(aged)
		src := storetest.NewSource(content)
		must(s.T, s.Ensure(s.Context(), describe(content), src, nil))
		s.wantWhole(content, nil, layerstore.Hit)
		if len(src.Requests()) != 1 {
			s.Errorf("the source was asked %v", src.Requests())
		}
	})
}

func TestRotWithoutASourceIsReported(t *testing.T) {
	eachDamage(t, []int{1000, mib}, func(s *shed, content []byte, d damage) {
		parent := []byte(`{"layers":["it"]}`)
		must(s.T, s.Put(s.Context(), describe(parent), parent, digest.FromBytes(content)))
		s.clock.advance(aged)
		if _, _, err := s.fetch(content, nil); err == nil {
			s.Fatal("completed")
		}
		s.wantLost(content)
		s.wantTaken(content, d)
		select {
		case <-s.Rot():
		default:
			s.Error("nobody is told")
		}
		s.stop()
		s.start()
		s.wantLost(content) // and after a restart
		refs, err := s.Refs(digest.FromBytes(parent))
		if err != nil || len(refs) != 1 {
			s.Errorf("edges %v, %v", refs, err)
		}
		must(s.T, s.Ensure(s.Context(), describe(content), storetest.NewSource(content), nil))
		s.settle()
		if got := s.Integrity(); got.Lost != 0 || got.Repaired != 1 {
			s.Errorf("%+v", got)
		}
	})
}

func TestRotFoundAtTheStartIsReported(t *testing.T) {
	for _, d := range damages[3:8] {
		t.Run(d.name, func(t *testing.T) {
			s := newShed(t, 1000)
			content := s.blobs[0]
			must(t, s.SetRefs(digest.FromBytes(content), []digest.Digest{digest.FromString("child")}))
			s.stop()
			s.spoil(content, d)
			s.start()
			s.wantLost(content)
			if refs, err := s.Refs(digest.FromBytes(content)); err != nil || len(refs) != 1 {
				t.Errorf("edges %v, %v", refs, err)
			}
			s.wantWhole(content, storetest.NewSource(content), layerstore.Miss)
			must(t, s.Ensure(t.Context(), describe(content), nil, nil))
			s.settle()
			if lost := s.Lost(); len(lost) != 0 {
				t.Errorf("lost: %+v", lost)
			}
		})
	}
}

func TestHitTellsWhenItsBytesCame(t *testing.T) {
	s := newShed(t, 1000, mib)
	came := s.clock.now()
	for _, later := range []time.Duration{time.Hour, aged} {
		s.clock.advance(later)
		for _, content := range s.blobs {
			b, err := s.Fetch(t.Context(), describe(content), nil)
			must(t, err)
			if !b.Came().Equal(came) {
				t.Errorf("came %v, want %v", b.Came(), came)
			}
			b.Close()
		}
		s.stop()
		s.start()
	}
}

func TestManyReadersOfRotAreAllCut(t *testing.T) {
	for _, d := range damages[:3] {
		t.Run(d.name, func(t *testing.T) {
			s := newShed(t, mib)
			content := s.blobs[0]
			s.spoil(content, d)
			s.clock.advance(aged)
			src := storetest.NewSource(content)
			var readers sync.WaitGroup
			for range 50 {
				readers.Go(func() {
					got, _, err := s.fetch(content, src)
					if err == nil && !bytes.Equal(got, content) {
						t.Errorf("a reader completed %d wrong bytes", len(got))
					}
				})
			}
			readers.Wait()
			s.wantTaken(content, d)
			for range 50 {
				readers.Go(func() { // at the next try
					if got, _, err := s.fetch(content, src); err != nil || !bytes.Equal(got, content) {
						t.Errorf("%d bytes, %v", len(got), err)
					}
				})
			}
			readers.Wait()
			if n := src.Sent(); n != int64(len(content)) {
				t.Errorf("the source sent %d bytes, want the blob once", n)
			}
		})
	}
}

func TestRangeOfRot(t *testing.T) {
	for _, part := range []struct {
		name     string
		from, to int64
		held     bool // until the blob is proven
	}{
		{"the first bytes", 0, 100, false},
		{"before the rot", 1000, mib, false},
		{"behind the rot, without the end", 4*mib - 100, 5*mib - (64 << 10), false},
		{"the last byte", 5*mib - 1, 5 * mib, true},
		{"the end", 3 * mib, 5 * mib, true},
	} {
		t.Run(part.name, func(t *testing.T) {
			s := newShed(t, 5*mib)
			content := s.blobs[0]
			s.spoil(content, damages[1]) // the middle byte, at 2.5 MiB
			s.clock.advance(aged)
			src := storetest.NewSource(content)
			b, err := s.Fetch(t.Context(), describe(content), src)
			must(t, err)
			defer b.Close()
			_, err = b.Seek(part.from, io.SeekStart)
			must(t, err)
			got := make([]byte, part.to-part.from)
			n, err := io.ReadFull(b, got)
			var rot *layerstore.RotError
			switch {
			case !part.held && (err != nil || !bytes.Equal(got, content[part.from:part.to])):
				t.Errorf("%d bytes, %v", n, err)
			case part.held && !errors.As(err, &rot):
				t.Errorf("not held until the blob was proven: %d bytes, %v", n, err)
			}
		})
	}
}

func TestRangeOverRotIsNotCompletedByTheSameClient(t *testing.T) {
	// A client that was cut asks for the rest, of the new blob.
	s := newShed(t, 9*mib)
	content := s.blobs[0]
	s.spoil(content, damages[0])
	s.clock.advance(aged)
	got, _, err := s.fetch(content, nil)
	if err == nil {
		t.Fatal("completed")
	}
	hold := make(chan struct{})
	src := storetest.Always(content, storetest.Answer{HoldAt: 1 * mib, Hold: hold})
	b, err := s.Fetch(t.Context(), describe(content), src)
	must(t, err)
	defer b.Close()
	_, err = b.Seek(int64(len(got)), io.SeekStart)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	rest, err := s.Fetch(ctx, describe(content), nil)
	must(t, err)
	defer rest.Close()
	_, err = rest.Seek(int64(len(content)-1), io.SeekStart)
	must(t, err)
	cancel()
	if n, err := rest.Read(make([]byte, 1)); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("the last byte was given before the new blob is proven: %d, %v", n, err)
	}
	close(hold)
	if rest, err := io.ReadAll(b); err != nil || len(got)+len(rest) != len(content) {
		t.Errorf("%d more bytes, %v", len(rest), err)
	}
}

func TestStatPromisesNothingOfTheBytes(t *testing.T) {
	s := newShed(t, 1000)
	s.spoil(s.blobs[0], damages[3])
	s.clock.advance(aged)
	info, err := s.Stat(digest.FromBytes(s.blobs[0]))
	if err != nil || info.Size != 1000 {
		t.Errorf("%+v, %v: a HEAD costs no reading, and tells the size of the blob that will be served", info, err)
	}
}

func TestAgedBlobThatIsRightIsProvenForAWhile(t *testing.T) {
	s := newShed(t, rotSizes...)
	s.clock.advance(aged)
	for _, content := range s.blobs {
		must(t, s.Ensure(t.Context(), describe(content), nil, nil)) // returns when it is proven
		s.wantWhole(content, nil, layerstore.Hit)
	}
	s.stop() // the new proofs are written
	s.start()
	s.clock.advance(6 * day)
	for _, content := range s.blobs {
		s.spoil(content, damages[1])
		if got, _, err := s.fetch(content, nil); err != nil || bytes.Equal(got, content) {
			t.Errorf("%d bytes were proven again before their time: %v", len(content), err)
		}
	}
}

func TestProofFromTheFutureIsNone(t *testing.T) {
	s := newShed(t, 1000)
	s.stop()
	s.start()
	s.clock.advance(-time.Hour)
	s.spoil(s.blobs[0], damages[1])
	if _, _, err := s.fetch(s.blobs[0], nil); !errors.Is(err, layerstore.ErrNotFound) {
		t.Errorf("served with a clock that is wrong: %v", err)
	}
}

func TestNeverVerifying(t *testing.T) {
	root, content := filepath.Join(t.TempDir(), "store"), random(1000)
	made(t, root, content)
	clock := newClock()
	s := open(t, layerstore.Options{Root: root, Now: clock.now, VerifyAfter: -1})
	defer s.Close()
	damages[1].do(t, blobPath(root, digest.FromBytes(content)), 1000)
	b, err := s.Fetch(t.Context(), describe(content), nil)
	must(t, err)
	defer b.Close()
	if got, err := io.ReadAll(b); err != nil || len(got) != 1000 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	found, err := s.Scrub(t.Context(), layerstore.ScrubOptions{})
	if err != nil || found.Blobs != 0 {
		t.Errorf("%+v, %v", found, err)
	}
	found, err = s.Scrub(t.Context(), layerstore.ScrubOptions{All: true})
	if err != nil || len(found.Rotten) != 1 {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestUncleanStopMakesProofsDoubtful(t *testing.T) {
	for _, killed := range []bool{false, true} {
		root, content := t.TempDir(), random(mib)
		made(t, root, content)
		damages[1].do(t, blobPath(root, digest.FromBytes(content)), mib)
		if killed {
			killMidway(t, root) // SIGKILL
		}
		for range 2 { // a clean stop afterwards does not make up for it
			open(t, layerstore.Options{Root: root}).Close()
		}
		s := open(t, layerstore.Options{Root: root})
		b, err := s.Fetch(t.Context(), describe(content), nil)
		must(t, err)
		_, err = io.ReadAll(b)
		b.Close()
		if killed == (err == nil) {
			t.Errorf("killed: %t, error %v", killed, err)
		}
		must(t, s.Close())
	}
}

func TestBlobThatCannotBeTakenAwayIsNotServed(t *testing.T) {
	s := newShed(t, 1000)
	s.spoil(s.blobs[0], damages[1])
	s.clock.advance(aged)
	must(t, os.WriteFile(filepath.Join(s.root, "quarantine"), nil, 0o600)) // in the way
	for range 2 {
		if _, _, err := s.fetch(s.blobs[0], nil); !errors.Is(err, layerstore.ErrNotFound) {
			t.Errorf("served: %v", err)
		}
	}
	s.wantWhole(s.blobs[0], storetest.NewSource(s.blobs[0]), layerstore.Miss)
	must(t, s.Ensure(t.Context(), describe(s.blobs[0]), nil, nil))
	s.wantWhole(s.blobs[0], nil, layerstore.Hit)
}

func TestQuarantineIsBounded(t *testing.T) {
	sizes := make([]int, 20)
	for i := range sizes {
		sizes[i] = 100
	}
	s := newShed(t, sizes...)
	for _, content := range s.blobs {
		s.spoil(content, damages[0])
		s.clock.advance(time.Minute)
		must(t, s.Quarantine(digest.FromBytes(content)))
	}
	if n := len(s.quarantined()); n != 16 {
		t.Errorf("%d files in quarantine", n)
	}
	for i, content := range s.blobs {
		kept, err := filepath.Glob(filepath.Join(s.root, "quarantine", "sha256-"+digest.FromBytes(content).Encoded()+"-*"))
		must(t, err)
		if (len(kept) == 1) != (i >= 4) {
			t.Errorf("blob %d of 20: %v", i, kept)
		}
	}
	wantStats(t, s.Store, 0, 0)
	s.clock.advance(aged)
	if _, err := s.Scrub(t.Context(), layerstore.ScrubOptions{}); err != nil {
		t.Error(err)
	}
	if n := len(s.quarantined()); n != 0 {
		t.Errorf("%d files in quarantine after 8 days", n)
	}
}

func TestQuarantineOfWhatIsRightOrNotHere(t *testing.T) {
	s := newShed(t, 1000)
	must(t, s.Quarantine(digest.FromBytes(s.blobs[0])))
	must(t, s.Quarantine(digest.FromString("never seen")))
	if err := s.Quarantine("sha256:short"); err == nil {
		t.Error("a digest that is none was taken")
	}
	s.wantWhole(s.blobs[0], nil, layerstore.Hit)
	if got := s.Integrity(); got != (layerstore.Integrity{}) {
		t.Errorf("%+v", got)
	}
}

func TestForgottenLossIsNotReported(t *testing.T) {
	s := newShed(t, 1000)
	d := digest.FromBytes(s.blobs[0])
	s.spoil(s.blobs[0], damages[0])
	must(t, s.Quarantine(d))
	s.wantLost(s.blobs[0])
	must(t, s.Forget(d))
	s.stop()
	s.start()
	if lost := s.Lost(); len(lost) != 0 {
		t.Errorf("lost: %+v", lost)
	}
}

// TestRightBlobsStayWhileEverythingHappens has readers, proofs, scrubs and
// removals in each other's way: nothing right is ever taken for rot.
func TestRightBlobsStayWhileEverythingHappens(t *testing.T) {
	s := newShed(t, 1000, 64<<10+1, mib, mib)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var actors sync.WaitGroup
	forever := func(act func(content []byte)) {
		actors.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				act(s.blobs[i%len(s.blobs)])
			}
		})
	}
	reads := make(chan struct{})
	for range 4 {
		forever(func(content []byte) {
			got, _, err := s.fetch(content, storetest.NewSource(content))
			if err == nil && !bytes.Equal(got, content) {
				t.Errorf("completed %d wrong bytes", len(got))
			}
			select {
			case reads <- struct{}{}:
			case <-ctx.Done():
			}
		})
	}
	forever(func([]byte) { _, _ = s.Scrub(ctx, layerstore.ScrubOptions{}) })
	forever(func(content []byte) { _, _ = s.Remove([]digest.Digest{digest.FromBytes(content)}, nil) })
	forever(func(content []byte) { _ = s.Quarantine(digest.FromBytes(content)) })
	for range 200 {
		<-reads
		s.clock.advance(day)
	}
	cancel()
	actors.Wait()
	if lost := s.Lost(); len(lost) != 0 || len(s.quarantined()) != 0 {
		t.Errorf("right blobs were taken away: %+v, %v", lost, s.quarantined())
	}
	for _, content := range s.blobs {
		must(t, s.Ensure(t.Context(), describe(content), storetest.NewSource(content), nil))
		s.wantWhole(content, nil, layerstore.Hit)
	}
}

package layerstore_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
)

// line is a source that gives each body so many bytes a second, in the time of
// a synctest bubble.
type line struct {
	content   []byte
	perSecond int64
	ranges    bool
	opened    chan [2]int64
}

func (l *line) Open(ctx context.Context, offset, end int64) (*layerstore.Body, error) {
	l.opened <- [2]int64{offset, end}
	size := int64(len(l.content))
	if end < 0 || !l.ranges {
		end = size
	}
	if !l.ranges {
		offset = 0
	}
	body := &slowly{ctx: ctx, rest: l.content[offset:end], each: l.perSecond / 1000}
	return &layerstore.Body{ReadCloser: body, Offset: offset, Size: size}, nil
}

type slowly struct {
	ctx  context.Context
	rest []byte
	each int64
}

func (s *slowly) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	select {
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	case <-time.After(time.Millisecond):
	}
	n := copy(p, s.rest[:min(s.each, int64(len(s.rest)))])
	s.rest = s.rest[n:]
	return n, nil
}

func (s *slowly) Close() error { return nil }

// fetchBy fetches 64 MiB and returns what was asked for, and how long it took.
func fetchBy(t *testing.T, perSecond int64, ranges bool) (asked [][2]int64, took time.Duration) {
	root := t.TempDir()
	content := make([]byte, 64<<20)
	rand.NewChaCha8([32]byte{1}).Read(content)
	d := digest.FromBytes(content)
	synctest.Test(t, func(t *testing.T) {
		s, err := layerstore.Open(layerstore.Options{Root: root})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		l := &line{content: content, perSecond: perSecond, ranges: ranges, opened: make(chan [2]int64, 100)}
		start := time.Now()
		b, err := s.Fetch(t.Context(), specs.Descriptor{Digest: d}, l)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		got, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		took = time.Since(start)
		close(l.opened)
		for a := range l.opened {
			asked = append(asked, a)
		}
	})
	return asked, took
}

func TestALargeBlobFromASlowSourceComesInParts(t *testing.T) {
	asked, took := fetchBy(t, 8<<20, true)
	if len(asked) < 3 {
		t.Errorf("asked for %v: one connection at a time", asked)
	}
	// In the bubble's time, which no machine makes longer: one connection takes 8 s.
	if took > 4*time.Second {
		t.Errorf("took %s of the source's time, half of one connection's is 4s", took)
	}
}

func TestAFastSourceIsAskedOnce(t *testing.T) {
	if asked, _ := fetchBy(t, 1<<30, true); len(asked) != 1 || asked[0] != [2]int64{0, -1} {
		t.Errorf("asked for %v, want one plain request", asked)
	}
}

func TestASourceThatIgnoresRangesGoesBackToOneConnection(t *testing.T) {
	asked, took := fetchBy(t, 8<<20, false)
	if len(asked) != 2 {
		t.Errorf("asked for %v, want the blob and one attempt at a part", asked)
	}
	if took > 9*time.Second {
		t.Errorf("took %s of the source's time: the transfer under way was disturbed", took)
	}
}

// A source whose first bodies drip after a while.
type drip struct {
	*line
	bodies int   // that drip
	fast   int64 // bytes until they do
	each   int64 // bytes a millisecond from then on
}

func (d *drip) Open(ctx context.Context, offset, end int64) (*layerstore.Body, error) {
	b, err := d.line.Open(ctx, offset, end)
	if err == nil && d.bodies > 0 {
		d.bodies--
		fast := b.ReadCloser.(*slowly)
		b.ReadCloser = &dripping{slowly: fast, fast: d.fast, drips: d.each}
	}
	return b, err
}

type dripping struct {
	*slowly
	fast, drips int64
}

func (d *dripping) Read(p []byte) (int, error) {
	if d.fast <= 0 {
		d.slowly.each = d.drips
	}
	n, err := d.slowly.Read(p)
	d.fast -= int64(n)
	return n, err
}

// What came fast for half a second tells as much as what came fast for long.
func TestAConnectionThatDripsIsAskedAnew(t *testing.T) {
	for name, d := range map[string]*drip{
		"a kilobyte a second":                        {line: &line{perSecond: 20 << 20}, bodies: 1, fast: 10 << 20, each: 1},
		"two connections, one after the other":       {line: &line{perSecond: 20 << 20}, bodies: 2, fast: 10 << 20, each: 1},
		"300 kB a second, after a moment of 50 MB/s": {line: &line{perSecond: 50 << 20}, bodies: 1, fast: 20 << 20, each: 300},
	} {
		t.Run(name, func(t *testing.T) { dripped(t, d) })
	}
}

func dripped(t *testing.T, d *drip) {
	root := t.TempDir()
	d.content = make([]byte, 31<<20)
	rand.NewChaCha8([32]byte{2}).Read(d.content)
	synctest.Test(t, func(t *testing.T) {
		s, err := layerstore.Open(layerstore.Options{Root: root})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		d.ranges, d.opened = true, make(chan [2]int64, 100)
		start := time.Now()
		b, err := s.Fetch(t.Context(), specs.Descriptor{Digest: digest.FromBytes(d.content)}, d)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, d.content) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		// At its drip the rest would take half a minute, or hours, of the bubble's time.
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("took %s of the source's time", took)
		}
	})
}

// A source that sends a burst and then no faster, however often it is asked, is
// not asked for ever.
func TestASourceThatIsSlowByNatureIsLeftAlone(t *testing.T) {
	root := t.TempDir()
	content := make([]byte, 31<<20)
	rand.NewChaCha8([32]byte{3}).Read(content)
	synctest.Test(t, func(t *testing.T) {
		s, err := layerstore.Open(layerstore.Options{Root: root})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		l := &line{content: content, perSecond: 100_000, ranges: true, opened: make(chan [2]int64, 1000)}
		b, err := s.Fetch(t.Context(), specs.Descriptor{Digest: digest.FromBytes(content)}, &burst{line: l, bytes: 20 << 20})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		if n := len(l.opened); n > 12 { // in about two minutes
			t.Errorf("asked %d times", n)
		}
	})
}

// burst is a source that gives the first bytes of all at once.
type burst struct {
	*line
	bytes int64
}

func (b *burst) Open(ctx context.Context, offset, end int64) (*layerstore.Body, error) {
	body, err := b.line.Open(ctx, offset, end)
	if err == nil && offset == 0 {
		slow := body.ReadCloser.(*slowly)
		body.ReadCloser = &dripping{slowly: &slowly{ctx: ctx, rest: slow.rest, each: 50 << 10}, fast: b.bytes, drips: slow.each}
	}
	return body, err
}

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

// A source whose first body drips after a while.
type drip struct {
	*line
	first bool
}

func (d *drip) Open(ctx context.Context, offset, end int64) (*layerstore.Body, error) {
	b, err := d.line.Open(ctx, offset, end)
	if err == nil && !d.first {
		d.first = true
		fast := b.ReadCloser.(*slowly)
		b.ReadCloser = &dripping{slowly: fast, fast: 10 << 20}
	}
	return b, err
}

type dripping struct {
	*slowly
	fast int64 // bytes until it drips
}

func (d *dripping) Read(p []byte) (int, error) {
	if d.fast <= 0 {
		p = p[:1]
		d.slowly.each = 1
	}
	n, err := d.slowly.Read(p)
	d.fast -= int64(n)
	return n, err
}

func TestAConnectionThatDripsIsAskedAnew(t *testing.T) {
	root := t.TempDir()
	content := make([]byte, 20<<20)
	rand.NewChaCha8([32]byte{2}).Read(content)
	synctest.Test(t, func(t *testing.T) {
		s, err := layerstore.Open(layerstore.Options{Root: root})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		l := &line{content: content, perSecond: 20 << 20, ranges: true, opened: make(chan [2]int64, 100)}
		start := time.Now()
		b, err := s.Fetch(t.Context(), specs.Descriptor{Digest: digest.FromBytes(content)}, &drip{line: l})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		// At a kilobyte a second the rest would take hours of the bubble's time.
		if took := time.Since(start); took > time.Minute {
			t.Errorf("took %s of the source's time", took)
		}
	})
}

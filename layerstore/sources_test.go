package layerstore_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/storetest"
)

// A source that speaks of another blob costs nothing of what came already.
func TestWrongSizeOfASourceCostsNothingThatCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, layerstore.Options{Root: t.TempDir()})
		defer s.Close()
		content := random(5 * mib)
		liar := storetest.Answers(content, storetest.Answer{Break: 4 * mib}, storetest.Answer{Size: 6 * mib})
		if err := s.Ensure(t.Context(), describe(content), liar, nil); !errors.As(err, new(*layerstore.SizeError)) {
			t.Fatal(err)
		}
		if n := len(liar.Requests()); n != 2 {
			t.Errorf("the source was asked %d times", n)
		}
		next := storetest.NewSource(content)
		must(t, s.Ensure(t.Context(), describe(content), next, nil))
		wantAsked(t, next, storetest.Request{Offset: 4 * mib, End: 5 * mib})
	})
}

// stumbling is a line that refuses its second request.
type stumbling struct {
	*line
	asked int
}

func (s *stumbling) Open(ctx context.Context, offset, end int64) (*layerstore.Body, error) {
	if s.asked++; s.asked == 2 {
		return nil, errors.New("too many requests of yours")
	}
	return s.line.Open(ctx, offset, end)
}

func TestPartThatFailedOnceIsNotTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, layerstore.Options{Root: t.TempDir()})
		defer s.Close()
		content := random(64 * mib)
		l := &line{content: content, perSecond: 4 * mib, ranges: true, opened: make(chan [2]int64, 100)}
		b, err := s.Fetch(t.Context(), describe(content), &stumbling{line: l})
		must(t, err)
		defer b.Close()
		if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		if n := len(l.opened); n < 3 {
			t.Errorf("%d requests were answered: after the one that failed the blob came over one connection to its end", n)
		}
	})
}

// curious is a source that looks at the store when it is asked for leave.
type curious struct {
	*line
	look func()
}

func (c *curious) Share() (func(), bool) {
	c.look()
	return func() {}, true
}

func TestSourceIsAskedForLeaveUnderNoLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, layerstore.Options{Root: t.TempDir()})
		defer s.Close()
		content := random(64 * mib)
		l := &line{content: content, perSecond: 8 * mib, ranges: true, opened: make(chan [2]int64, 100)}
		looks := 0
		src := &curious{l, func() { // would wait for the flight's lock
			b, err := s.Fetch(t.Context(), describe(content), nil)
			if err != nil {
				t.Error(err)
				return
			}
			_ = b.Close()
			looks++
		}}
		must(t, s.Ensure(t.Context(), describe(content), src, nil))
		if looks == 0 {
			t.Error("no leave was asked for")
		}
	})
}

func TestKeepingTellsWhatCanBeKnown(t *testing.T) {
	for _, c := range []struct {
		name    string
		free    uint64
		blocked bool
		want    bool
	}{{"room", 100 * mib, false, true}, {"no room", mib, false, false}, {"past the store", 100 * mib, true, false}} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, layerstore.Options{Root: t.TempDir(), StallAfter: stallAfter, Disk: func() (uint64, uint64, error) { return 100 * mib, c.free, nil }})
			defer s.Close()
			content := random(3 * mib)
			if c.blocked {
				block(t, s, describe(content).Digest)
			}
			hold := make(chan struct{})
			b, err := s.Fetch(t.Context(), describe(content), storetest.Always(content, storetest.Answer{HoldAt: kib, Hold: hold}))
			must(t, err)
			if got := b.Keeping(); got != c.want {
				t.Errorf("keeping: %t", got)
			}
			close(hold)
			must(t, b.Close())
			if c.blocked {
				return
			}
			must(t, s.Ensure(t.Context(), describe(content), nil, nil))
			hit, err := s.Fetch(t.Context(), describe(content), nil)
			must(t, err)
			defer hit.Close()
			if !hit.Keeping() {
				t.Error("a hit is not kept")
			}
		})
	}
}

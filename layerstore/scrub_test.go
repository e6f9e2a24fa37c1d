package layerstore_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/storetest"
	"github.com/opencontainers/go-digest"
)

func TestScrubFindsRot(t *testing.T) {
	eachDamage(t, []int{1000, mib}, func(s *shed, content []byte, d damage) {
		all := d.name != damages[0].name // or all that is due
		if !all {
			s.clock.advance(aged)
		}
		found, err := s.Scrub(s.Context(), layerstore.ScrubOptions{All: all})
		if err != nil || found.Blobs != 1 || !slices.Equal(found.Rotten, []digest.Digest{digest.FromBytes(content)}) {
			s.Errorf("%+v, %v", found, err)
		}
		s.wantTaken(content, d)
		s.wantLost(content)
		found, err = s.Scrub(s.Context(), layerstore.ScrubOptions{All: true})
		if err != nil || found.Blobs != 0 {
			s.Errorf("again: %+v, %v", found, err)
		}
		must(s.T, s.Ensure(s.Context(), describe(content), storetest.NewSource(content), nil))
		s.wantWhole(content, nil, layerstore.Hit)
	})
}

func TestScrubProvesTheOldestFirst(t *testing.T) {
	s := newShed(t)
	var want []digest.Digest
	for i := range 4 {
		content := random(100 + i)
		must(t, s.Put(t.Context(), describe(content), content))
		want = append(want, digest.FromBytes(content))
		s.clock.advance(day)
	}
	s.clock.advance(5 * day) // the last one is not due
	var got []digest.Digest
	var last layerstore.ScrubProgress
	done, err := s.Scrub(t.Context(), layerstore.ScrubOptions{Progress: func(p layerstore.ScrubProgress) {
		if !slices.Contains(got, p.Digest) {
			got = append(got, p.Digest)
		}
		if p.BytesDone < last.BytesDone || p.BytesDone > p.BytesTotal || p.BlobsDone > p.BlobsTotal {
			t.Errorf("progress %+v after %+v", p, last)
		}
		last = p
	}})
	if err != nil || done.Blobs != 3 || done.Bytes != 100+101+102 || !slices.Equal(got, want[:3]) {
		t.Errorf("%+v, %v, in the order %v, want %v", done, err, got, want[:3])
	}
	if last.BlobsDone != 3 || last.BytesDone != done.Bytes || s.Integrity().Scrubbed != done.Bytes {
		t.Errorf("last progress %+v, %+v", last, s.Integrity())
	}
	s.stop() // a scrub's proofs last
	s.start()
	if done, err := s.Scrub(t.Context(), layerstore.ScrubOptions{}); err != nil || done.Blobs != 0 {
		t.Errorf("%+v, %v", done, err)
	}
}

func TestScrubEndsWithItsContextAndWithTheStore(t *testing.T) {
	s := newShed(t, 3*mib)
	for _, end := range []func(context.CancelFunc){
		func(cancel context.CancelFunc) { cancel() },
		func(context.CancelFunc) { go s.Close() },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		// The rest would take a month.
		_, err := s.Scrub(ctx, layerstore.ScrubOptions{All: true, Rate: 1, Progress: func(layerstore.ScrubProgress) { end(cancel) }})
		if !errors.Is(err, context.Canceled) && !errors.Is(err, layerstore.ErrClosed) {
			t.Errorf("%v", err)
		}
	}
	if _, err := s.Scrub(t.Context(), layerstore.ScrubOptions{}); !errors.Is(err, layerstore.ErrClosed) {
		t.Errorf("a closed store scrubs: %v", err)
	}
}

func TestBackgroundScrubFindsRot(t *testing.T) {
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		root := filepath.Join(root, "store")
		content := random(2 * mib)
		made(t, root, content)
		damages[1].do(t, blobPath(root, digest.FromBytes(content)), 2*mib)
		s := open(t, layerstore.Options{Root: root})
		defer s.Close()
		time.Sleep(6 * day)
		if got := s.Integrity(); got.Quarantined != 0 {
			t.Errorf("before its time: %+v", got)
		}
		time.Sleep(2 * day)
		synctest.Wait()
		if got := s.Integrity(); got.Quarantined != 1 || got.Scrubbed != 2*mib || got.Lost != 1 {
			t.Errorf("after 8 days: %+v", got)
		}
	})
}

package layerstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/storetest"
	"github.com/opencontainers/go-digest"
)

// street is a few images that share layers, and traffic for all of them.
type street struct {
	*testing.T
	*layerstore.Store
	random *rand.Rand
}

const imagesOfStreet = 8

func layersOf(image int) (names []string) {
	return []string{fmt.Sprint("base ", image%2), fmt.Sprint("middle ", image%4), fmt.Sprint("own ", image)}
}

// manifestOf is the content of an image's top, and all blobs that it has.
func manifestOf(image int) (content []byte, layers [][]byte, all []digest.Digest) {
	content = padded(fmt.Sprint("image ", image))
	all = []digest.Digest{describe(content).Digest}
	for _, name := range layersOf(image) {
		layers = append(layers, padded(name))
		all = append(all, describe(padded(name)).Digest)
	}
	return content, layers, all
}

// fetchImage brings an image.
func (s *street) fetchImage(image int) {
	content, layers, all := manifestOf(image)
	if err := s.Put(s.Context(), describe(content), content, all[1:]...); err != nil {
		s.Error(err)
	}
	for _, l := range layers {
		if err := s.Ensure(s.Context(), describe(l), storetest.NewSource(l), nil); err != nil && !errors.Is(err, os.ErrNotExist) {
			s.Error(err)
		}
	}
}

func (s *street) wantAll(why string, all []digest.Digest) {
	for _, d := range all {
		if _, err := s.Stat(d); err != nil {
			s.Errorf("%s: %v", why, err)
		}
	}
}

// pull holds an image by a lease. What is here when all of it came stays.
func (s *street) pull() {
	lease := s.Lease()
	defer lease.Release()
	image := s.random.IntN(imagesOfStreet)
	_, _, all := manifestOf(image)
	lease.Hold(all[0])
	s.fetchImage(image)
	s.wantAll("leased", all)
	s.jostle()
	s.wantAll("leased", all)
}

// pin holds an image by a root, which a lease covers until it is set.
func (s *street) pin(name string) {
	image := s.random.IntN(imagesOfStreet)
	lease := s.Lease()
	_, _, all := manifestOf(image)
	lease.Hold(all[0])
	s.fetchImage(image)
	if err := s.SetRoot(name, all[0]); err != nil {
		s.Error(err)
	}
	lease.Release()
	s.wantAll("pinned", all)
	s.jostle()
	s.wantAll("pinned", all)
	if err := s.DeleteRoot(name); err != nil {
		s.Error(err)
	}
}

// read reads a layer that may be going. Once it is open it stays.
func (s *street) read() {
	names := layersOf(s.random.IntN(imagesOfStreet))
	content := padded(names[s.random.IntN(len(names))])
	b, err := s.Fetch(s.Context(), describe(content), storetest.NewSource(content))
	if errors.Is(err, os.ErrNotExist) {
		return // removed again, three times, before it could be opened
	}
	if err != nil {
		s.Error(err)
		return
	}
	defer b.Close()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, content) {
		s.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := s.Stat(b.Digest()); err != nil {
		return // it is not sealed yet
	}
	s.jostle()
	s.wantAll("being read", []digest.Digest{b.Digest()})
}

// jostle collects while something is held.
func (s *street) jostle() {
	if _, err := s.Collect(s.Context(), layerstore.CollectOptions{Need: 3 * kib}); err != nil {
		s.Error(err)
	}
}

func TestNothingHeldGoesWhateverRunsBeside(t *testing.T) {
	root := t.TempDir()
	var tick atomic.Int64
	start := time.Now()
	// Each look at the clock is a minute later: nothing was just used.
	now := func() time.Time { return start.Add(time.Duration(tick.Add(1)) * time.Minute) }
	s := open(t, layerstore.Options{Root: root, MaxSize: 10 * kib, Now: now, TouchEvery: 5 * time.Millisecond})
	defer s.Close()
	ctx, stop := context.WithCancel(t.Context())
	var traffic, collections sync.WaitGroup
	for worker := range 6 {
		w := &street{t, s, rand.New(rand.NewPCG(1, uint64(worker)))}
		traffic.Go(func() {
			for i := range 25 {
				switch worker % 3 {
				case 0:
					w.pull()
				case 1:
					w.pin(fmt.Sprint(worker, " ", i))
				case 2:
					w.read()
				}
			}
		})
	}
	collections.Go(func() {
		for ctx.Err() == nil {
			if _, err := s.Collect(ctx, layerstore.CollectOptions{Need: 2 * kib}); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	traffic.Wait()
	stop()
	collections.Wait()
	if blobs, _ := s.Evicted(); blobs == 0 {
		t.Error("nothing was evicted at all")
	}
	wantAgreement(t, s, root)
}

// wantAgreement wants rows, files and figures to tell the same.
func wantAgreement(t *testing.T, s *layerstore.Store, root string) {
	t.Helper()
	var blobs, size int64
	must(t, s.Each(func(i layerstore.Info) error {
		blobs, size = blobs+1, size+i.Size
		if !exists(t, blobPath(root, i.Digest)) {
			t.Errorf("%s has a row and no file", i.Digest)
		}
		return nil
	}))
	files, err := os.ReadDir(filepath.Join(root, "blobs", "sha256"))
	must(t, err)
	if int64(len(files)) != blobs {
		t.Errorf("%d files, %d rows", len(files), blobs)
	}
	wantStats(t, s, blobs, size)
}

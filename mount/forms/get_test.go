package forms

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/opencontainers/go-digest"
)

func TestOneMakingForAllWhoAsk(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		f := openForms(t, Options{Root: newRoot(t), Kind: kind})
		content := noise(1, 3<<20)
		s := layerOf(t, folder("bin"), regular("bin/sh", content))
		release := make(chan struct{})
		s.read = func(ctx context.Context, _ int64, r io.Reader) io.Reader {
			return &held{ctx: ctx, r: r, after: 1 << 20, release: release}
		}
		ids := make([]uint64, 20)
		var all sync.WaitGroup
		for i := range ids {
			all.Go(func() {
				form, err := f.Get(t.Context(), imageOf(s), "")
				if err != nil {
					t.Error(err)
				}
				ids[i] = form.ID
			})
		}
		eventually(t, "all wait", func() bool { return f.Stats().Waiting == len(ids) })
		eventually(t, "half of it is read", func() bool { p, ok := f.Progress(imageOf(s)); return ok && p.Read >= 1<<20 && p.Moves > 0 })
		close(release)
		all.Wait()
		for _, id := range ids {
			if id != ids[0] {
				t.Errorf("forms %v", ids)
			}
		}
		if st := f.Stats(); s.opens.Load() != 1 || st.Made != 1 || st.Joined != int64(len(ids)-1) || st.Waiting != 0 {
			t.Errorf("opened %d times; %+v", s.opens.Load(), st)
		}
		wantContent(t, filepath.Join(lower(t, f, ids[0]), "bin/sh"), content)
		if again := get(t, f, imageOf(s), ""); again.ID != ids[0] || again.Kind != kind || again.Bytes < int64(len(content)) || again.Inodes < 3 {
			t.Errorf("a hit gives %+v", again)
		}
		if !f.Has(imageOf(s)) || f.Stats().Hits != 1 {
			t.Errorf("no hit: %+v", f.Stats())
		}
		wantTidy(t, f)
		wantForms(t, f, 1)
	})
}

// held gives some bytes, and the others when it is let.
type held struct {
	ctx     context.Context
	r       io.Reader
	after   int64
	release chan struct{}
}

func (h *held) Read(p []byte) (int, error) {
	if h.after <= 0 {
		select {
		case <-h.release:
		case <-h.ctx.Done():
			return 0, context.Cause(h.ctx)
		}
	} else if int64(len(p)) > h.after {
		p = p[:h.after]
	}
	n, err := h.r.Read(p)
	h.after -= int64(n)
	return n, err
}

func TestWrongDiffIDIsRefusedOnceAndNothingKept(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		f := openForms(t, Options{Root: newRoot(t), Kind: kind})
		s := layerOf(t, regular("a", "content"))
		right := s.diffID
		s.diffID = digest.FromString("something else")
		for range 2 {
			_, err := f.Get(t.Context(), imageOf(s), "user")
			wantReason(t, err, ReasonDiffID)
			var wrong *DiffIDError
			if !errors.As(err, &wrong) || wrong.Got != right {
				t.Errorf("error %v", err)
			}
		}
		if st := f.Stats(); s.opens.Load() != 1 || st.Failed[ReasonDiffID] != 1 {
			t.Errorf("opened %d times, %+v", s.opens.Load(), st)
		}
		wantTidy(t, f)
		wantForms(t, f, 0)
	})
}

// Who names a diff ID that his blob does not have must not spoil it for others.
func TestAnImageThatLiesDoesNotFailAnHonestOne(t *testing.T) {
	f := openForms(t, Options{Root: newRoot(t)})
	honest, liar := layerOf(t, regular("a", "content")), layerOf(t, regular("b", "other"))
	liar.diffID = honest.diffID
	release := make(chan struct{})
	liar.read = func(ctx context.Context, _ int64, r io.Reader) io.Reader {
		return &held{ctx: ctx, r: r, release: release}
	}
	f.Ahead(imageOf(liar))
	eventually(t, "the lie is being unpacked", func() bool { return liar.opens.Load() == 1 })
	done := make(chan error)
	go func() {
		_, err := f.Get(t.Context(), imageOf(honest), "")
		done <- err
	}()
	eventually(t, "the honest one waits", func() bool { return f.Stats().Waiting == 1 })
	close(release)
	must(t, <-done)
	_, err := f.Get(t.Context(), imageOf(liar), "")
	if err != nil {
		t.Errorf("the true form is here, by the name it was asked by: %v", err)
	}
}

func TestBrokenBlobIsTriedOnceMore(t *testing.T) {
	for name, test := range map[string]struct {
		broken int64
		opens  int64
	}{"once": {1, 2}, "always": {99, 2}} {
		t.Run(name, func(t *testing.T) {
			f := openForms(t, Options{Root: newRoot(t)})
			s := layerOf(t, regular("a", noise(1, 1<<20)))
			s.read = func(_ context.Context, opening int64, r io.Reader) io.Reader {
				if opening > test.broken {
					return r
				}
				return io.MultiReader(io.LimitReader(r, 500_000), iotest.ErrReader(errors.New("the flight crashed")))
			}
			_, err := f.Get(t.Context(), imageOf(s), "")
			if test.broken == 1 {
				must(t, err)
			} else {
				wantReason(t, err, ReasonBlob)
			}
			if s.opens.Load() != test.opens {
				t.Errorf("opened %d times, want %d", s.opens.Load(), test.opens)
			}
			wantTidy(t, f)
		})
	}
}

// Bytes that are wrong in the middle break the gzip stream before the end of the blob tells that it is not the blob.
func TestRottenBytesAreTheBlobsFault(t *testing.T) {
	f := openForms(t, Options{Root: newRoot(t)})
	s := layerOf(t, regular("a", noise(1, 1<<20)))
	s.read = func(_ context.Context, opening int64, r io.Reader) io.Reader {
		if opening > 1 {
			return r
		}
		garbage := io.LimitReader(&endless{}, 600_000)
		return io.MultiReader(io.LimitReader(r, 400_000), garbage, iotest.ErrReader(errors.New("the bytes hash to something else")))
	}
	get(t, f, imageOf(s), "")
	if s.opens.Load() != 2 {
		t.Errorf("opened %d times", s.opens.Load())
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 0xA5
	}
	return len(p), nil
}

func TestBrokenLayerIsRefused(t *testing.T) {
	f := openForms(t, Options{Root: newRoot(t)})
	plain := []byte("this is no tar stream, and long enough to have a header of one, if it were" + noise(1, 2000))
	s := &supply{diffID: digest.FromBytes(plain), blob: pack(t, plain)}
	_, err := f.Get(t.Context(), imageOf(s), "")
	wantReason(t, err, ReasonLayer)
	if s.opens.Load() != 1 {
		t.Errorf("opened %d times", s.opens.Load())
	}
}

func TestLayerBeyondTheLimitIsRefused(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		f := openForms(t, Options{Root: newRoot(t), Kind: kind, MaxUnpacked: 1 << 20})
		s := layerOf(t, regular("zeros", string(make([]byte, 64<<20))))
		_, err := f.Get(t.Context(), imageOf(s), "")
		wantReason(t, err, ReasonLimit)
		wantTidy(t, f)
		wantForms(t, f, 0)
	})
}

// A layer of very many names is read again, when no other such one is being made.
func TestLayerOfManyNamesIsMadeAlone(t *testing.T) {
	needEROFS(t)
	f := openForms(t, Options{Root: newRoot(t), Kind: KindEROFS})
	var files []file
	for i := range modestMetadata/4000 + 1 {
		link := file{header: tar.Header{Name: fmt.Sprint("link", i), Linkname: strings.Repeat("x", 4000), Typeflag: tar.TypeSymlink, Mode: 0o777}}
		files = append(files, link)
	}
	s := layerOf(t, files...)
	form := get(t, f, imageOf(s), "")
	if s.opens.Load() != 2 || form.Inodes != int64(len(files)+1) || len(f.large) != 0 {
		t.Errorf("opened %d times, form %+v, %d tokens taken", s.opens.Load(), form, len(f.large))
	}
}

func TestPanicIsAMiss(t *testing.T) {
	f := openForms(t, Options{Root: newRoot(t)})
	image := imageOf(layerOf(t, regular("a", "content")))
	image[0].Open = func(context.Context) (io.ReadCloser, error) { panic("a fault") }
	_, err := f.Get(t.Context(), image, "")
	wantReason(t, err, ReasonPanic)
	wantTidy(t, f)
	get(t, f, imageOf(layerOf(t, regular("b", "content"))), "") // no place and no turn was lost
}

func TestMakingGoesOnWhenTheAskerLeaves(t *testing.T) {
	f := openForms(t, Options{Root: newRoot(t), Linger: time.Hour})
	s, release := layerOf(t, regular("a", "content")), make(chan struct{})
	s.read = func(ctx context.Context, _ int64, r io.Reader) io.Reader {
		return &held{ctx: ctx, r: r, release: release}
	}
	ctx, leave := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	done := make(chan error)
	go func() {
		_, err := f.Get(ctx, imageOf(s), "user")
		done <- err
	}()
	eventually(t, "it is being made", func() bool { return s.opens.Load() == 1 })
	leave(gone)
	if err := <-done; !errors.Is(err, gone) {
		t.Errorf("error %v", err)
	}
	close(release)
	eventually(t, "it is made", func() bool { return f.Has(imageOf(s)) })
}

func TestMakingThatNobodyWantsEnds(t *testing.T) {
	f := openForms(t, Options{Root: newRoot(t), Linger: time.Millisecond})
	unwanted, ahead := layerOf(t, regular("a", "content")), layerOf(t, regular("b", "content"))
	release := make(chan struct{})
	for _, s := range []*supply{unwanted, ahead} {
		s.read = func(ctx context.Context, _ int64, r io.Reader) io.Reader {
			return &held{ctx: ctx, r: r, release: release}
		}
		ctx, leave := context.WithCancel(t.Context())
		if s == ahead {
			f.Ahead(imageOf(s))
		}
		done := make(chan error)
		go func() {
			_, err := f.Get(ctx, imageOf(s), "")
			done <- err
		}()
		eventually(t, "it is being made", func() bool { return s.opens.Load() == 1 && f.Stats().Waiting == 1 })
		leave()
		<-done
	}
	eventually(t, "the one is given up", func() bool { return f.Stats().Failed[ReasonUnwanted] == 1 })
	close(release)
	eventually(t, "the other is made", func() bool { return f.Has(imageOf(ahead)) })
	if f.Has(imageOf(unwanted)) {
		t.Error("what nobody wanted was made")
	}
	wantTidy(t, f)
}

// With one worker, a layer whose bytes do not come must not keep another from being unpacked.
func TestSlowFlightKeepsNobody(t *testing.T) {
	f := openForms(t, Options{Root: newRoot(t), Workers: 1})
	slow, quick := layerOf(t, regular("a", noise(1, 1<<20))), layerOf(t, regular("b", noise(2, 1<<20)))
	release := make(chan struct{})
	slow.read = func(ctx context.Context, _ int64, r io.Reader) io.Reader {
		return &held{ctx: ctx, r: r, after: 300_000, release: release}
	}
	f.Ahead(imageOf(slow))
	eventually(t, "the slow one waits", func() bool { p, ok := f.Progress(imageOf(slow)); return ok && p.Read >= 300_000 })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := f.Get(ctx, imageOf(quick), ""); err != nil {
		t.Error(err)
	}
	close(release)
	get(t, f, imageOf(slow), "")
}

// Who is waited for is made before what is made ahead.
func TestWhoWaitsComesFirst(t *testing.T) {
	f := openForms(t, Options{Root: newRoot(t), Workers: 1})
	var layers []*supply
	var releases []chan struct{}
	for i := range byte(makingsPerWorker + 3) {
		s, release := layerOf(t, regular("a", noise(i, 1000))), make(chan struct{})
		s.read = func(ctx context.Context, _ int64, r io.Reader) io.Reader {
			return &held{ctx: ctx, r: r, release: release}
		}
		layers, releases = append(layers, s), append(releases, release)
		f.Ahead(imageOf(s))
		if i < makingsPerWorker {
			eventually(t, "it is begun", func() bool { return s.opens.Load() == 1 })
		} else {
			eventually(t, "it waits for its turn", func() bool { return f.Stats().Queued == int(i)-makingsPerWorker+1 })
		}
	}
	wanted := len(layers) - 1
	done := make(chan error)
	go func() {
		_, err := f.Get(t.Context(), imageOf(layers[wanted]), "")
		done <- err
	}()
	eventually(t, "somebody waits for the last", func() bool { return f.Stats().Waiting == 1 })
	close(releases[0])
	eventually(t, "one more is begun", func() bool { return f.Stats().Queued == 2 && f.Has(imageOf(layers[0])) })
	eventually(t, "it is the one that is waited for", func() bool { return layers[wanted].opens.Load() == 1 })
	for i, s := range layers[makingsPerWorker:wanted] {
		if s.opens.Load() != 0 {
			t.Errorf("layer %d was begun before", makingsPerWorker+i)
		}
	}
	for _, release := range releases[1:] {
		close(release)
	}
	must(t, <-done)
}

func TestCloseEndsMakings(t *testing.T) {
	f := openForms(t, Options{Root: newRoot(t)})
	s := layerOf(t, regular("a", "content"))
	s.read = func(ctx context.Context, _ int64, r io.Reader) io.Reader {
		return &held{ctx: ctx, r: r, release: make(chan struct{})}
	}
	done := make(chan error)
	go func() {
		_, err := f.Get(t.Context(), imageOf(s), "")
		done <- err
	}()
	eventually(t, "it is being made", func() bool { return s.opens.Load() == 1 })
	must(t, f.Close())
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("error %v", err)
	}
	if _, err := f.Get(t.Context(), imageOf(s), ""); !errors.Is(err, ErrClosed) {
		t.Errorf("error %v", err)
	}
}

func TestBadImagesAreRefused(t *testing.T) {
	f := openForms(t, Options{Root: newRoot(t)})
	for _, image := range [][]Layer{nil, {{}}, {{DiffID: "sha256:../../etc"}}} {
		if _, err := f.Get(t.Context(), image, ""); err == nil {
			t.Errorf("%v was taken", image)
		}
		if f.Has(image) {
			t.Errorf("%v is here", image)
		}
		f.Ahead(image)
	}
}

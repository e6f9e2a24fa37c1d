package forms

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/mount/erofs"
)

// rots are done to a folder that is a form. Each must be found.
var rots = map[string]func(folder string) error{
	"a byte, the time kept": func(folder string) error { return flip(filepath.Join(folder, "d/large"), 70_000) },
	"mode":                  func(folder string) error { return os.Chmod(filepath.Join(folder, "d/large"), 0o755) },
	"owner":                 func(folder string) error { return os.Lchown(filepath.Join(folder, "link"), 1, 1) },
	"target": func(folder string) error {
		return errors.Join(os.Remove(filepath.Join(folder, "link")), os.Symlink("elsewhere", filepath.Join(folder, "link")))
	},
	"a name more": func(folder string) error { return os.WriteFile(filepath.Join(folder, "d/more"), nil, 0o600) },
	"a name less": func(folder string) error { return os.Remove(filepath.Join(folder, "d/second")) },
	"an attribute": func(folder string) error {
		return unix.Lsetxattr(filepath.Join(folder, "d"), "trusted.overlay.opaque", []byte("y"), 0)
	},
	"a hard link made a copy": func(folder string) error {
		path := filepath.Join(folder, "d/second")
		content, err := os.ReadFile(path)
		info, _ := os.Stat(path)
		return errors.Join(err, os.Remove(path), os.WriteFile(path, content, 0o644), os.Chtimes(path, info.ModTime(), info.ModTime()))
	},
}

// flip changes one byte, and leaves the times of the file.
func flip(path string, at int64) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	b[0] ^= 1
	_, wrote := f.WriteAt(b[:], at)
	return errors.Join(err, wrote, os.Chtimes(path, info.ModTime(), info.ModTime()))
}

// rottable is a layer with something of everything.
func rottable(t *testing.T) *supply {
	link := file{}
	link.header.Name, link.header.Linkname, link.header.Typeflag, link.header.Mode = "link", "d/large", '2', 0o777
	return layerOf(t, folder("d"), regular("d/large", noise(1, 100_000)), hardLink("d/second", "d/large"), link)
}

func TestScrubFindsRotAndMakesTheFormAgain(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: owners and trusted attributes are root's to change")
	}
	for name, rot := range rots {
		t.Run(name, func(t *testing.T) {
			s := rottable(t)
			f := openForms(t, Options{Root: newRoot(t)}, s)
			form := get(t, f, imageOf(s), "user")
			wantSealed(t, f)
			must(t, rot(f.at.lower(form.ID)))
			wantRotten(t, f, form, nil)
			if s.opens.Load() != 2 {
				t.Errorf("opened %d times", s.opens.Load())
			}
			wantContent(t, filepath.Join(lower(t, f, form.ID), "d/large"), noise(1, 100_000))
			wantSealed(t, f)
			wantSound(t, f)
		})
	}
}

// wantRotten scrubs, and wants this form to be rotten and made again.
func wantRotten(t *testing.T, f *Forms, form Form, users []string) {
	t.Helper()
	if users == nil {
		users = []string{"user"}
	}
	read, paced := 0, int64(0)
	pace := func(_ context.Context, n int64) error { paced += n; return nil }
	done, err := f.Scrub(t.Context(), ScrubOptions{Pace: pace, Progress: func(ScrubProgress) { read++ }})
	must(t, err)
	if len(done.Rotten) != 1 || done.Rotten[0].Form.ID != form.ID || done.Rotten[0].Err != nil || !slices.Equal(done.Rotten[0].Users, users) {
		t.Errorf("found %+v", done)
	}
	if read == 0 || paced != done.Bytes || f.Stats().Rotten != 1 || f.Stats().Scrubbed < done.Bytes {
		t.Errorf("%d reports, %d bytes paced, %+v", read, paced, f.Stats())
	}
}

func wantSound(t *testing.T, f *Forms) {
	t.Helper()
	if done, err := f.Scrub(t.Context(), ScrubOptions{}); err != nil || len(done.Rotten) != 0 || done.Forms == 0 || done.Bytes == 0 {
		t.Errorf("%+v, %v", done, err)
	}
}

func TestScrubOfEROFS(t *testing.T) {
	needEROFS(t)
	s := rottable(t)
	f := openForms(t, Options{Root: newRoot(t), Kind: KindEROFS}, s)
	form := get(t, f, imageOf(s), "user")
	wantSealed(t, f)
	digest := rowOf(f, form.ID).Digest
	wantSound(t, f)
	lower(t, f, form.ID) // mounted
	f.Release("test")
	must(t, flip(f.at.image(rowOf(f, form.ID)), 70_000))
	wantRotten(t, f, form, nil)
	wantContent(t, filepath.Join(lower(t, f, form.ID), "d/large"), noise(1, 100_000))
	wantSealed(t, f)
	wantSound(t, f)
	if again := rowOf(f, form.ID).Digest; again != digest {
		t.Errorf("the same layer gave a file of digest %s, and then of %s", digest, again)
	}
}

// Without its blob a rotten form waits for who brings it.
func TestRottenFormWaitsForItsBlob(t *testing.T) {
	root := newRoot(t)
	f := openForms(t, Options{Root: root})
	s := rottable(t)
	form := get(t, f, imageOf(s), "user")
	wantSealed(t, f)
	must(t, flip(filepath.Join(f.at.lower(form.ID), "d/large"), 1))
	done, err := f.Scrub(t.Context(), ScrubOptions{})
	if err != nil || len(done.Rotten) != 1 || done.Rotten[0].Err == nil {
		t.Errorf("%+v, %v", done, err)
	}
	if _, err := f.Lower(t.Context(), form.ID); err == nil {
		t.Error("a rotten form was lent")
	}
	must(t, f.Close())
	f = openForms(t, Options{Root: root}) // it is remembered
	if f.Has(imageOf(s)) {
		t.Error("it counts as here")
	}
	if again := get(t, f, imageOf(s), ""); again.ID != form.ID || s.opens.Load() != 2 {
		t.Errorf("form %+v", again)
	}
}

// Containers that run on a form that is made again go on with what they have, and
// new ones get the new one; the old one goes with its last user.
func TestContainersRunOnWhileTheirFormIsMadeAgain(t *testing.T) {
	needMounts(t)
	eachKind(t, func(t *testing.T, kind string) {
		root := newRoot(t)
		base, s := layerOf(t, regular("base", "base")), rottable(t)
		f := openForms(t, Options{Root: root, Kind: kind}, base, s)
		f.Rehold(nil)
		bottom := get(t, f, imageOf(base), "bottom")
		form := get(t, f, imageOf(base, s), "container")
		wantSealed(t, f)
		path, err := f.Lower(t.Context(), form.ID)
		must(t, err)
		running := overlay(t, path, lower(t, f, bottom.ID))
		open, err := os.Open(filepath.Join(running, "d/second"))
		must(t, err)
		defer open.Close()
		if kind == KindDirectory {
			must(t, flip(filepath.Join(path, "d/large"), 90_000))
		} else {
			must(t, flip(f.at.image(rowOf(f, form.ID)), 70_000))
		}
		wantRotten(t, f, form, []string{"container"})
		wantContent(t, filepath.Join(lower(t, f, form.ID), "d/large"), noise(1, 100_000))
		started := overlay(t, lower(t, f, form.ID), lower(t, f, bottom.ID))
		wantContent(t, filepath.Join(started, "d/large"), noise(1, 100_000))
		for _, name := range []string{"base", "d/large", "link"} {
			if info, err := os.Stat(filepath.Join(running, name)); err != nil || info.Size() == 0 {
				t.Errorf("the running container lost %s: %v", name, err)
			}
		}
		wantContent(t, filepath.Join(running, "base"), "base")
		if kind == KindDirectory && len(names(f.at.replaced())) != 1 {
			t.Errorf("kept are %v", names(f.at.replaced()))
		}
		// The process may end and come back meanwhile.
		must(t, f.Close())
		f = openForms(t, Options{Root: root, Kind: kind}, s)
		f.Rehold(map[string][]uint64{"container": {form.ID}, "bottom": {bottom.ID}})
		wantContent(t, filepath.Join(running, "base"), "base")
		if kind == KindDirectory && len(names(f.at.replaced())) != 1 {
			t.Errorf("kept are %v", names(f.at.replaced()))
		}
		f.Release("container")
		eventually(t, "the old folder is gone", func() bool { return len(names(f.at.replaced())) == 0 })
		wantContent(t, filepath.Join(started, "d/large"), noise(1, 100_000))
	})
}

func TestScrubEnds(t *testing.T) {
	f := openForms(t, Options{Root: newRoot(t)})
	get(t, f, imageOf(layerOf(t, regular("a", noise(1, 1<<20)))), "")
	wantSealed(t, f)
	ended := make(chan error)
	reading := make(chan struct{})
	go func() {
		_, err := f.Scrub(t.Context(), ScrubOptions{Pace: func(ctx context.Context, _ int64) error {
			close(reading)
			<-ctx.Done()
			return context.Cause(ctx)
		}})
		ended <- err
	}()
	<-reading
	must(t, f.Close())
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("error %v", err)
	}
}

// A form that was found damaged while its blob could not be had is made again by
// the next scrub that can get it.
func TestScrubMendsWhatAnEarlierOneCouldNot(t *testing.T) {
	s, away := rottable(t), atomic.Bool{}
	f := openForms(t, Options{Root: newRoot(t), Blob: func(ctx context.Context, _ digest.Digest, _ specs.Descriptor) (io.ReadCloser, error) {
		if away.Load() {
			return nil, errors.New("the registry is away")
		}
		return s.open(ctx)
	}})
	form := get(t, f, imageOf(s), "user")
	wantSealed(t, f)
	must(t, flip(filepath.Join(f.at.lower(form.ID), "d/large"), 1))
	away.Store(true)
	for range 2 { // the second finds nothing new, and tells of it all the same
		done, err := f.Scrub(t.Context(), ScrubOptions{})
		if err != nil || len(done.Rotten) != 1 || done.Rotten[0].Err == nil {
			t.Errorf("%+v, %v", done, err)
		}
	}
	away.Store(false)
	wantRottenOnce := f.Stats().Rotten
	done, err := f.Scrub(t.Context(), ScrubOptions{Older: time.Hour})
	if err != nil || len(done.Rotten) != 1 || done.Rotten[0].Err != nil || wantRottenOnce != 1 {
		t.Errorf("%+v, %v; %d found rotten", done, err, wantRottenOnce)
	}
	wantSealed(t, f)
	wantSound(t, f)
}

func TestScrubLeavesOutWhatWasProvenLately(t *testing.T) {
	now := atomic.Pointer[time.Time]{}
	begin := time.Now()
	now.Store(&begin)
	f := openForms(t, Options{Root: newRoot(t), Now: func() time.Time { return *now.Load() }})
	get(t, f, imageOf(layerOf(t, regular("a", noise(1, 1000)))), "")
	wantSealed(t, f)
	for _, c := range []struct {
		after time.Duration
		forms int
	}{{0, 0}, {59 * time.Minute, 0}, {time.Hour, 1}, {time.Hour, 0}, {-time.Hour, 1}} {
		at := begin.Add(c.after)
		now.Store(&at)
		if done, err := f.Scrub(t.Context(), ScrubOptions{Older: time.Hour}); err != nil || done.Forms != c.forms {
			t.Errorf("after %v %d forms were read, %v; want %d", c.after, done.Forms, err, c.forms)
		}
	}
}

func TestScrubInTheBackground(t *testing.T) {
	s := rottable(t)
	f := openForms(t, Options{Root: newRoot(t)}, s)
	form := get(t, f, imageOf(s), "user")
	wantSealed(t, f)
	must(t, flip(filepath.Join(f.at.lower(form.ID), "d/large"), 1))
	f.scrubAlways(ScrubOptions{}, 0, time.Millisecond)
	eventually(t, "the form is made again", func() bool { return f.Stats().MadeAgain == 1 })
	wantContent(t, filepath.Join(lower(t, f, form.ID), "d/large"), noise(1, 100_000))
}

// The kernel is asked to unmount what nobody uses, and nothing else.
func TestNoMountIsLeft(t *testing.T) {
	needEROFS(t)
	root := newRoot(t)
	f := openForms(t, Options{Root: root, Kind: KindEROFS})
	f.Rehold(nil)
	for i := range byte(5) {
		form := get(t, f, imageOf(layerOf(t, regular("a", noise(i, 1000)))), "user")
		lower(t, f, form.ID)
	}
	if mounts, err := erofs.Below(root); err != nil || len(mounts) != 5 {
		t.Errorf("mounted %v, %v", mounts, err)
	}
	f.Release("user")
	if mounts, err := erofs.Below(root); err != nil || len(mounts) != 5 {
		t.Errorf("held by one user still, mounted are %v, %v", mounts, err)
	}
	f.Release("test")
	eventually(t, "all are unmounted", func() bool { mounts, err := erofs.Below(root); return err == nil && len(mounts) == 0 })
}

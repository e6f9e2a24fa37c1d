package forms

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// stock says which blobs are here.
type stock struct {
	mu   sync.Mutex // guards gone
	gone map[digest.Digest]bool
}

func (s *stock) here(d digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.gone[d]
}

func (s *stock) lose(layers ...*supply) (lost []digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range layers {
		if s.gone == nil {
			s.gone = map[digest.Digest]bool{}
		}
		d := l.layer().Blob.Digest
		s.gone[d] = true
		lost = append(lost, d)
	}
	return lost
}

func setOf(digests ...digest.Digest) map[digest.Digest]bool {
	set := map[digest.Digest]bool{}
	for _, d := range digests {
		set[d] = true
	}
	return set
}

func TestFormsGoWithTheirBlobsUnlessTheyAreUsed(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		var blobs stock
		f := openForms(t, Options{Root: newRoot(t), Kind: kind, Here: blobs.here})
		used, free, other := layerOf(t, regular("a", noise(1, 100_000))), layerOf(t, regular("b", noise(2, 100_000))), layerOf(t, regular("c", "c"))
		usedForm, freeForm, otherForm := get(t, f, imageOf(used), "user"), get(t, f, imageOf(free), ""), get(t, f, imageOf(other), "")
		lower(t, f, freeForm.ID)
		f.Release("test")
		wantSealed(t, f)
		both := setOf(used.layer().Blob.Digest, free.layer().Blob.Digest)
		if f.Freeable(both) != 0 || f.Drop(blobs.lose()) != 0 {
			t.Error("something can go before Rehold")
		}
		f.Rehold(map[string][]uint64{"user": {usedForm.ID}})
		now, _ := f.Form(freeForm.ID)
		if n := f.Freeable(both); n != now.Bytes || n < 100_000 {
			t.Errorf("freeable %d, want %d", n, now.Bytes)
		}
		if f.Freeable(nil) != 0 || f.Idle(1<<40) != 0 {
			t.Error("something is idle whose blob is here")
		}
		before := f.Bytes()
		if freed := f.Drop(blobs.lose(used, free)); freed != now.Bytes {
			t.Errorf("freed %d, want %d", freed, now.Bytes)
		}
		if _, ok := f.Form(freeForm.ID); ok || f.Has(imageOf(free)) || f.Bytes() != before-now.Bytes {
			t.Error("the form is here still")
		}
		if len(names(f.at.dropped())) != 0 {
			t.Error("its space was not free when Drop returned")
		}
		wantForms(t, f, 2)
		if _, err := f.Lower(t.Context(), usedForm.ID); err != nil {
			t.Errorf("the form in use: %v", err)
		}
		// Held no more, it belongs to no blob.
		f.Release("user")
		if n := f.Freeable(nil); n < 100_000 {
			t.Errorf("idle are %d bytes", n)
		}
		if f.Idle(1) < 100_000 || f.Idle(1) != 0 {
			t.Error("it did not go, or something else did")
		}
		if _, ok := f.Form(otherForm.ID); !ok {
			t.Error("the other one is gone")
		}
		if err := f.Hold(usedForm.ID, "user"); !errors.Is(err, ErrNotFound) {
			t.Errorf("error %v", err)
		}
		if again := get(t, f, imageOf(used), ""); again.ID == usedForm.ID {
			t.Errorf("number %d was given again", again.ID)
		}
		wantForms(t, f, 2)
		files, err := filepath.Glob(filepath.Join(f.at.rows(), "*"))
		if err != nil || len(files) != 2 {
			t.Errorf("cards %v, %v", files, err)
		}
	})
}

// The same layer, compressed in two ways, has one form, which stays as long as one of the blobs.
func TestFormBelongsToAllItsBlobs(t *testing.T) {
	root := newRoot(t)
	var blobs stock
	f := openForms(t, Options{Root: root, Here: blobs.here})
	f.Rehold(nil)
	one := layerOf(t, regular("a", noise(1, 100_000)))
	other := &supply{diffID: one.diffID, blob: append(slices.Clone(one.blob), pack(t, nil)...)} // one more gzip member
	form := get(t, f, imageOf(one), "")
	if get(t, f, imageOf(other), "").ID != form.ID || other.opens.Load() != 0 {
		t.Error("two forms of one layer")
	}
	must(t, f.Close())
	f = openForms(t, Options{Root: root, Here: blobs.here}) // it is remembered
	f.Rehold(nil)
	first, second := one.layer().Blob.Digest, other.layer().Blob.Digest
	if f.Freeable(setOf(first)) != 0 || f.Freeable(setOf(first, second)) == 0 {
		t.Errorf("freeable %d and %d", f.Freeable(setOf(first)), f.Freeable(setOf(first, second)))
	}
	if f.Drop(blobs.lose(one)) != 0 {
		t.Error("it went with the first blob")
	}
	if f.Freeable(setOf(second)) == 0 || f.Drop(blobs.lose(other)) == 0 {
		t.Error("it did not go with the last")
	}
	wantForms(t, f, 0)
}

func TestIdleTakesTheLeastRecentlyUsedFirst(t *testing.T) {
	var blobs stock
	f := openForms(t, Options{Root: newRoot(t), Here: blobs.here})
	f.Rehold(nil)
	old, recent := layerOf(t, regular("a", noise(1, 100_000))), layerOf(t, regular("b", noise(2, 100_000)))
	get(t, f, imageOf(recent), "")
	get(t, f, imageOf(old), "")
	get(t, f, imageOf(recent), "")
	blobs.lose(old, recent)
	if f.Idle(1) == 0 || f.Has(imageOf(old)) || !f.Has(imageOf(recent)) {
		t.Error("the wrong one went")
	}
}

// What a process that was killed left behind goes, what somebody holds stays.
func TestLeftOversAreReconciled(t *testing.T) {
	root := newRoot(t)
	at := layout{root}
	must(t, at.build())
	for _, path := range []string{
		"layers/f7/bin", "layers/f8/bin", "layers/12/fs", "making/3/files", "dropped/x/deep", "erofs/sha256/ab",
		"replaced/f7.boot.1/bin", "replaced/f7.earlier.1/bin",
	} {
		must(t, os.MkdirAll(filepath.Join(root, path), 0o700))
	}
	stray := filepath.Join(root, "erofs/sha256/ab/ab"+digest.FromString("x").Encoded()[2:]+".erofs")
	must(t, os.WriteFile(stray, nil, 0o600))
	must(t, os.WriteFile(at.card(9), []byte("{"), 0o600))
	f := openForms(t, Options{Root: root, BootID: "boot"})
	made := get(t, f, imageOf(layerOf(t, regular("a", "a"))), "") // at once, beside it
	wantTidy(t, f)
	for _, path := range []string{"layers/f7/bin", "layers/f8/bin", "replaced/f7.boot.1"} {
		if _, err := os.Stat(filepath.Join(root, path)); err != nil {
			t.Errorf("gone before Rehold: %v", err)
		}
	}
	if missing := f.Rehold(map[string][]uint64{"container": {7, 100}}); !slices.Equal(missing, []uint64{7, 100}) {
		t.Errorf("missing %v", missing)
	}
	eventually(t, "left-overs are gone", func() bool {
		return absent(at.lower(8)) && absent(stray) && absent(at.card(9)) && absent(filepath.Join(root, "replaced/f7.earlier.1"))
	})
	wantTidy(t, f)
	for _, path := range []string{"layers/f7/bin", "layers/12/fs", "layers/" + lowerName(made.ID)} {
		if absent(filepath.Join(root, path)) {
			t.Errorf("%s is gone", path)
		}
	}
	if form := get(t, f, imageOf(layerOf(t, regular("b", "b"))), ""); form.ID <= 100 {
		t.Errorf("number %d, though 100 is somebody's", form.ID)
	}
}

// Who asks for a form that is just being dropped gets a new one, of which the dropping takes nothing.
func TestFormThatIsBeingDroppedIsMadeAnew(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		f := openForms(t, Options{Root: newRoot(t), Kind: kind})
		f.Rehold(nil)
		s := layerOf(t, regular("file", "content"))
		form := get(t, f, imageOf(s), "")
		f.mu.Lock()
		m := f.forms[form.ID]
		f.mu.Unlock()
		m.place.Lock() // the dropping comes as far as this
		dropped := make(chan int64)
		go func() { dropped <- f.Drop(blobsOf(s.layer())) }()
		eventually(t, "it is out of the tables", func() bool { _, ok := f.Form(form.ID); return !ok })
		done := make(chan Form, 1)
		go func() {
			again, err := f.Get(t.Context(), imageOf(s), "user")
			if err != nil {
				t.Error(err)
			}
			done <- again
		}()
		for range 50 { // the Get may come as far as it can
			time.Sleep(time.Millisecond)
		}
		m.place.Unlock()
		again := <-done
		if freed := <-dropped; freed == 0 || again.ID == form.ID {
			t.Errorf("freed %d, form %+v", freed, again)
		}
		wantContent(t, filepath.Join(lower(t, f, again.ID), "file"), "content")
		if s.opens.Load() != 2 {
			t.Errorf("opened %d times", s.opens.Load())
		}
	})
}

func absent(path string) bool {
	_, err := os.Lstat(path)
	return os.IsNotExist(err)
}

func TestRemovingTreesOfAnyDepth(t *testing.T) {
	dir := t.TempDir()
	top := filepath.Join(dir, "top")
	must(t, os.Mkdir(top, 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "outside"), []byte("x"), 0o600))
	must(t, os.Symlink(dir, filepath.Join(top, "link")))
	at, err := os.OpenRoot(top)
	must(t, err)
	for range 2100 { // deeper than any path may be long
		must(t, at.Mkdir("d", 0o500))
		must(t, at.Chmod("d", 0o700))
		next, err := at.OpenRoot("d")
		must(t, err)
		at.Close()
		at = next
	}
	at.Close()
	for i := range 1500 { // more than are read at once
		must(t, os.WriteFile(filepath.Join(top, "file"+string(rune('a'+i%26))+digest.FromString(string(rune(i))).Encoded()), nil, 0o600))
	}
	must(t, removeTree(t.Context(), top))
	must(t, removeTree(t.Context(), top)) // gone already
	if absent(filepath.Join(dir, "outside")) || !absent(top) {
		t.Error("the wrong thing went")
	}
}

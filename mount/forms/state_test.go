package forms

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/mount/erofs"
)

// unseal says of all rows that they are not sealed, as if they had just been made in another boot.
func unseal(f *Forms, boot string) {
	var ids []uint64
	f.mu.Lock()
	for id, m := range f.forms {
		m.row.Sealed, m.row.Digest, m.row.Boot = time.Time{}, "", boot
		m.times++ // what the sealer is about does not count
		ids = append(ids, id)
	}
	f.mu.Unlock()
	_ = f.record(ids...)
}

// A form that a power cut may have taken is made again, under its number, before anybody gets it.
func TestFormNotSealedBeforeAPowerCutIsMadeAgain(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		root := newRoot(t)
		content := noise(1, 100_000)
		s := layerOf(t, regular("file", content))
		f := openForms(t, Options{Root: root, Kind: kind})
		form := get(t, f, imageOf(s), "snapshot")
		wantSealed(t, f)
		unseal(f, "the boot before")
		f.Release("snapshot")
		eventually(t, "it is unmounted", func() bool { return !isMounted(f.at.lower(form.ID)) })
		path := f.at.lower(form.ID) + "/file"
		if kind == KindEROFS {
			path = f.at.image(rowOf(f, form.ID))
		}
		must(t, f.Close())
		must(t, os.Truncate(path, 4096))

		f = openForms(t, Options{Root: root, Kind: kind}, s)
		if missing := f.Rehold(map[string][]uint64{"snapshot": {form.ID}}); len(missing) != 0 {
			t.Errorf("missing %v", missing)
		}
		if f.Has(imageOf(s)) || f.Stats().Damaged != 1 {
			t.Errorf("it counts as ready: %+v", f.Stats())
		}
		lower, err := f.Lower(t.Context(), form.ID)
		must(t, err)
		wantContent(t, filepath.Join(lower, "file"), content)
		if again := get(t, f, imageOf(s), ""); again.ID != form.ID || f.Stats().MadeAgain != 1 || s.opens.Load() != 2 {
			t.Errorf("form %+v, %+v", again, f.Stats())
		}
		wantSealed(t, f)
		wantTidy(t, f)
	})
}

func TestSealedFormOutlivesBoots(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		root := newRoot(t)
		s := layerOf(t, regular("file", "content"))
		f := openForms(t, Options{Root: root, Kind: kind, BootID: "one"})
		form := get(t, f, imageOf(s), "")
		wantSealed(t, f)
		must(t, f.Close())
		f = openForms(t, Options{Root: root, Kind: kind, BootID: "two"})
		if got, ok := f.Form(form.ID); !ok || got.DiffID != s.diffID || !f.Has(imageOf(s)) {
			t.Errorf("form %+v, %v", got, ok)
		}
		wantContent(t, filepath.Join(lower(t, f, form.ID), "file"), "content")
		if s.opens.Load() != 1 {
			t.Error("it was made again")
		}
	})
}

// Within one boot a process that was killed loses nothing: the kernel has the bytes.
func TestFormNotSealedCountsInItsBoot(t *testing.T) {
	root := newRoot(t)
	s := layerOf(t, regular("file", "content"))
	f := openForms(t, Options{Root: root, BootID: "one"})
	form := get(t, f, imageOf(s), "")
	unseal(f, "one")
	must(t, f.Close())
	f = openForms(t, Options{Root: root, BootID: "one"})
	if again := get(t, f, imageOf(s), ""); again.ID != form.ID || s.opens.Load() != 1 {
		t.Errorf("form %+v, opened %d times", again, s.opens.Load())
	}
	wantSealed(t, f)
}

// What vanished is made again under its number, with or without somebody who brings the layer.
func TestFormThatVanishedIsMadeAgain(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		s := layerOf(t, regular("file", "content"))
		f := openForms(t, Options{Root: newRoot(t), Kind: kind}, s)
		form := get(t, f, imageOf(s), "user")
		for i := range int64(2) {
			r := rowOf(f, form.ID)
			for _, path := range kindOf(kind).paths(f.at, r) {
				must(t, erofs.Unmount(path))
				must(t, os.RemoveAll(path))
			}
			if i == 0 {
				if again := get(t, f, imageOf(s), ""); again.ID != form.ID {
					t.Errorf("form %+v, was %+v", again, form)
				}
			}
			wantContent(t, filepath.Join(lower(t, f, form.ID), "file"), "content")
			if s.opens.Load() != 2+i {
				t.Errorf("opened %d times", s.opens.Load())
			}
		}
	})
}

func TestLowerWithoutABlobSaysWhatToDo(t *testing.T) {
	f := openForms(t, Options{Root: newRoot(t)})
	form := get(t, f, imageOf(layerOf(t, regular("file", "content"))), "user")
	must(t, os.RemoveAll(f.at.lower(form.ID)))
	if _, err := f.Lower(t.Context(), form.ID); err == nil || !strings.Contains(err.Error(), "pull the image") {
		t.Errorf("error %v", err)
	}
	f.Release("user")
	if _, err := f.Lower(t.Context(), form.ID); err == nil || !strings.Contains(err.Error(), "held by nobody") {
		t.Errorf("error %v", err)
	}
}

// A full disk: the making fails cleanly, is told once, and works when there is space again.
func TestFullDisk(t *testing.T) {
	needMounts(t)
	for _, kind := range []string{KindDirectory, KindEROFS} {
		t.Run(kind, func(t *testing.T) {
			if kind == KindEROFS {
				needEROFS(t)
			}
			dir := t.TempDir()
			must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"))
			t.Cleanup(func() {
				if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
			var told lockedBuffer
			f := openForms(t, Options{Root: filepath.Join(dir, "rootfs"), Kind: kind, Log: slog.New(slog.NewTextHandler(&told, nil))})
			kind = f.newKind() // not every file system of a small machine can carry EROFS
			ballast := filepath.Join(dir, "ballast")
			must(t, os.WriteFile(ballast, make([]byte, 12<<20), 0o600))
			for i := range byte(2) {
				s := layerOf(t, regular("large", noise(i, 14<<20)))
				_, err := f.Get(t.Context(), imageOf(s), "")
				wantReason(t, err, ReasonSpace)
				wantTidy(t, f)
			}
			wantForms(t, f, 0)
			if n := strings.Count(told.String(), "layers cannot be unpacked"); n != 1 {
				t.Errorf("told %d times:\n%s", n, told.String())
			}
			must(t, os.Remove(ballast))
			form := get(t, f, imageOf(layerOf(t, regular("large", noise(0, 14<<20)))), "")
			wantContent(t, filepath.Join(lower(t, f, form.ID), "large"), noise(0, 14<<20))
			if !strings.Contains(told.String(), "layers are unpacked again") {
				t.Errorf("the end of it was not told:\n%s", told.String())
			}
			f.Release("test")
			f.Rehold(nil)
			eventually(t, "it is unmounted", func() bool { return !isMounted(f.at.lower(form.ID)) })
		})
	}
}

// lockedBuffer is a log to look into.
type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestOneProcessAtATime(t *testing.T) {
	root := newRoot(t)
	openForms(t, Options{Root: root})
	if _, err := Open(Options{Root: root, Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), ErrBusy.Error()) {
		t.Errorf("error %v", err)
	}
}

// An index that is damaged is set aside, and its rows are learned from what lies beside it.
func TestDamagedIndexIsLearnedAgain(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		root := newRoot(t)
		base, top := layerOf(t, folder("d"), regular("d/a", "content")), layerOf(t, hardLink("b", "d/a"))
		f := openForms(t, Options{Root: root, Kind: kind})
		image := imageOf(base, top)
		first, second := get(t, f, image[:1], "held"), get(t, f, image, "held")
		wantSealed(t, f)
		must(t, f.Close())
		must(t, os.WriteFile(filepath.Join(root, indexName), []byte(noise(1, 100_000)), 0o600))

		f = openForms(t, Options{Root: root, Kind: kind})
		if missing := f.Rehold(map[string][]uint64{"held": {first.ID, second.ID}}); len(missing) != 0 {
			t.Errorf("missing %v", missing)
		}
		if again := get(t, f, image, ""); again.ID != second.ID {
			t.Errorf("form %+v, was %+v", again, second)
		}
		if get(t, f, image[:1], "").ID != first.ID || top.opens.Load() != 2 || base.opens.Load() != 1 {
			t.Errorf("opened %d and %d times", base.opens.Load(), top.opens.Load())
		}
		wantContent(t, filepath.Join(lower(t, f, second.ID), "b"), "content")
		if third := get(t, f, imageOf(layerOf(t, regular("c", "c"))), ""); third.ID <= second.ID {
			t.Errorf("number %d was given again", third.ID)
		}
	})
}

package forms

import (
	"archive/tar"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/imagecache/imagecache/mount/erofs"
)

// A hard link to a file of a layer below can only be made on top of that layer.
func TestLayerThatNeedsThoseBelowIsMadeOnTopOfThem(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		root := newRoot(t)
		f := openForms(t, Options{Root: root, Kind: kind})
		one, two := layerOf(t, folder("d"), regular("d/file", "first")), layerOf(t, folder("d"), regular("d/file", "second"))
		between := layerOf(t, regular("other", "other"))
		top := layerOf(t, hardLink("link", "d/file"), regular("top", "top"))
		images := map[string][]Layer{"first": imageOf(one, between, top), "second": imageOf(two, between, top)}
		ids := map[uint64]bool{}
		for content, image := range images {
			form := get(t, f, image, "user")
			ids[form.ID] = true
			path := lower(t, f, form.ID)
			wantContent(t, filepath.Join(path, "link"), content)
			wantContent(t, filepath.Join(path, "top"), "top")
			if !f.Has(image) {
				t.Error("it is not here under its chain")
			}
		}
		if len(ids) != 2 {
			t.Errorf("one form %v on two different layers", ids)
		}
		if f.Has(imageOf(between, top)) {
			t.Error("it is here on top of other layers")
		}
		if f.Stats().Failed[ReasonLayer] != 0 || len(f.Stats().Failed) != 0 {
			t.Errorf("failed %v", f.Stats().Failed)
		}
		published, err := filepath.Glob(filepath.Join(root, erofsName, "*", "*", "*.erofs"))
		must(t, err)
		if want := map[string]int{KindDirectory: 0, KindEROFS: 3}[kind]; len(published) != want {
			t.Errorf("published by diff ID are %v, want %d", published, want)
		}

		// The next process knows at once what the layer needs, and what it was made on.
		f.Release("user")
		f.Release("test")
		must(t, f.Close())
		three := layerOf(t, folder("d"), regular("d/file", "third"))
		f = openForms(t, Options{Root: root, Kind: kind})
		before := top.opens.Load()
		path := lower(t, f, get(t, f, imageOf(three, top), "").ID)
		wantContent(t, filepath.Join(path, "link"), "third")
		if opened := top.opens.Load() - before; opened != 1 {
			t.Errorf("the layer was read %d times", opened)
		}
		for _, image := range images {
			if !f.Has(image) {
				t.Error("a form is not found again")
			}
		}
	})
}

// A folder that is only implied has the attributes that the layer below gives
// it; at the bottom it has containerd's own. The two must not be taken for each other.
func TestImpliedFolderIsTheOneBelow(t *testing.T) {
	f := openForms(t, Options{Root: newRoot(t)})
	narrow := folder("d")
	narrow.header.Mode = 0o700
	base, implied := layerOf(t, narrow), layerOf(t, regular("d/e", "content"))
	bottom := get(t, f, imageOf(implied), "")
	above := get(t, f, imageOf(base, implied), "")
	if bottom.ID == above.ID {
		t.Fatal("one form for both")
	}
	for id, want := range map[uint64]os.FileMode{bottom.ID: 0o755, above.ID: 0o700} {
		info, err := os.Stat(filepath.Join(lower(t, f, id), "d"))
		must(t, err)
		if info.Mode().Perm() != want {
			t.Errorf("form %d has a folder of mode %v, want %v", id, info.Mode(), want)
		}
	}
}

func TestAheadMakesAllLayers(t *testing.T) {
	f := openForms(t, Options{Root: newRoot(t)})
	base := layerOf(t, folder("d"), regular("d/file", "first"))
	image := imageOf(base, layerOf(t, regular("b", "b")), layerOf(t, hardLink("link", "d/file")))
	f.Ahead(image)
	eventually(t, "all are here", func() bool { return f.Has(image[:1]) && f.Has(image[:2]) && f.Has(image) })
	f.Ahead(image)
	if base.opens.Load() != 1 || f.Stats().Made != 3 {
		t.Errorf("opened %d times, %+v", base.opens.Load(), f.Stats())
	}
}

// What a kernel cannot hold in EROFS is kept as a directory.
func TestWhatDoesNotFitEROFSIsADirectory(t *testing.T) {
	needEROFS(t)
	f := openForms(t, Options{Root: newRoot(t), Kind: KindEROFS})
	large := regular("a", "content")
	large.header.PAXRecords = map[string]string{"SCHILY.xattr.user.large": string(make([]byte, 1<<16))}
	s := layerOf(t, large)
	form, err := f.Get(t.Context(), imageOf(s), "")
	if err == nil && form.Kind != KindDirectory {
		t.Errorf("an attribute of 64 KiB fits an EROFS form: %+v", form)
	}
	if err == nil {
		return // a file system with room for it
	}
	wantReason(t, err, ReasonUnfit)
	_, err = f.Get(t.Context(), imageOf(s), "")
	wantReason(t, err, ReasonUnfit)
	if s.opens.Load() != 2 { // for either kind once
		t.Errorf("opened %d times", s.opens.Load())
	}
}

// The setting may change: what is here stays, and both kinds mount together.
func TestKindsMix(t *testing.T) {
	needEROFS(t)
	root := newRoot(t)
	layers := []*supply{layerOf(t, folder("d"), regular("d/a", "below"), regular("d/gone", "x")), layerOf(t, folder("d"), regular("d/b", "above"), regular("d/.wh.gone", ""))}
	image := imageOf(layers...)
	f := openForms(t, Options{Root: root, Kind: KindDirectory})
	first := get(t, f, image[:1], "")
	must(t, f.Close())
	f = openForms(t, Options{Root: root, Kind: KindAuto})
	f.Rehold(nil)
	if again := get(t, f, image[:1], "user"); again != first && again.ID != first.ID || layers[0].opens.Load() != 1 {
		t.Errorf("made again: %+v, was %+v", again, first)
	}
	second := get(t, f, image, "user")
	if second.Kind != KindEROFS {
		t.Fatalf("form %+v", second)
	}
	merged := overlay(t, lower(t, f, second.ID), lower(t, f, first.ID))
	wantContent(t, filepath.Join(merged, "d/a"), "below")
	wantContent(t, filepath.Join(merged, "d/b"), "above")
	if _, err := os.Stat(filepath.Join(merged, "d/gone")); !os.IsNotExist(err) {
		t.Errorf("what the upper layer deleted: %v", err)
	}

	// Mounts outlive the process, are found again, and go with the last user.
	must(t, f.Close())
	f = openForms(t, Options{Root: root, Kind: KindDirectory})
	f.Rehold(map[string][]uint64{"user": {first.ID, second.ID}})
	if !isMounted(f.at.lower(second.ID)) {
		t.Error("the mount did not outlive the process")
	}
	if path, err := f.Lower(t.Context(), second.ID); err != nil || path != f.at.lower(second.ID) {
		t.Errorf("%s, %v", path, err)
	}
	if mounts, err := erofs.Below(f.at.layers()); err != nil || len(mounts) != 1 {
		t.Errorf("mounted are %v, %v", mounts, err)
	}
	f.Release("user")
	eventually(t, "it is unmounted", func() bool { return !isMounted(f.at.lower(second.ID)) })
	wantContent(t, filepath.Join(merged, "d/b"), "above") // a container that runs keeps what it has
}

func TestDevicesAndTimesSurviveTheDigest(t *testing.T) {
	f := openForms(t, Options{Root: newRoot(t)})
	old := regular("old", "x")
	old.header.ModTime = time.Unix(0, 5)
	old.header.Format = tar.FormatPAX
	fifo := file{tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o600}, nil}
	link := file{tar.Header{Name: "link", Linkname: "/etc/passwd", Typeflag: tar.TypeSymlink}, nil}
	get(t, f, imageOf(layerOf(t, old, fifo, link, hardLink("second", "old"))), "")
	wantSealed(t, f)
	done, err := f.Scrub(t.Context(), ScrubOptions{})
	if err != nil || done.Forms != 1 || len(done.Rotten) != 0 {
		t.Errorf("%+v, %v", done, err)
	}
}

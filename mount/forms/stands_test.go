package forms

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func TestFormStandsForItsLayer(t *testing.T) {
	root := newRoot(t)
	f := openForms(t, Options{Root: root})
	s := rottable(t)
	diffID, blob := s.diffID, s.layer().Blob.Digest
	want := func(when string, stands bool) {
		t.Helper()
		if f.Stands(diffID, blob) != stands || slices.Contains(f.Standing(), blob) != stands {
			t.Errorf("%s it stands: %v, %v; want %v", when, f.Stands(diffID, blob), f.Standing(), stands)
		}
	}
	want("before it is made", false)
	form := get(t, f, imageOf(s), "user")
	wantSealed(t, f)
	want("sealed", true)
	if f.Stands(diffID, digest.FromString("another")) || f.Stands(digest.FromString("another"), blob) {
		t.Error("it stands for what it was not made of")
	}
	must(t, f.Close())
	f = openForms(t, Options{Root: root})
	want("after a restart", true)
	must(t, flip(filepath.Join(f.at.lower(form.ID), "d/large"), 1))
	if _, err := f.Scrub(t.Context(), ScrubOptions{}); err != nil {
		t.Fatal(err)
	}
	want("rotten", false)
	get(t, f, imageOf(s), "user")
	wantSealed(t, f)
	want("made again", true)
}

// A form that is not durable, or that was made on top of others, stands for nothing.
func TestFormsThatStandForNothing(t *testing.T) {
	for name, change := range map[string]func(m *form){
		"being made again": func(m *form) { m.making = true },
		"bad":              func(m *form) { m.row.Bad = "rotten" },
		"chained":          func(m *form) { m.row.Chained = true },
		"not read yet":     func(m *form) { m.row.Digest = "" },
		"not durable":      func(m *form) { m.row.Sealed = time.Time{} },
	} {
		m := &form{row: row{Sealed: time.Now(), Digest: digest.FromString("form")}}
		if !m.stands() {
			t.Fatal("a sound form does not stand")
		}
		if change(m); m.stands() {
			t.Errorf("%s, it stands", name)
		}
	}
}

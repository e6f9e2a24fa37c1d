package layerstore_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/imagecache/imagecache/layerstore"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestIndexIsTellsWhetherItIsWhatWasSet(t *testing.T) {
	root := t.TempDir()
	s := open(t, layerstore.Options{Root: root})
	defer s.Close()
	one, two := describe([]byte("one")), describe([]byte("two"))
	one.Annotations = map[string]string{specs.AnnotationRefName: "<one>", "b": "c"}
	lists := [][]specs.Descriptor{nil, {one}, {one, two}, {two, one}}
	if !s.IndexIs(nil) {
		t.Error("that of a new store is not empty")
	}
	for i, set := range lists {
		must(t, s.SetIndex(set))
		if listed, err := s.Index(); err != nil || len(listed) != len(set) {
			t.Errorf("list %d is read as %v, %v", i, listed, err)
		}
		for j, other := range lists {
			if s.IndexIs(other) != (i == j) {
				t.Errorf("list %d was set, is it list %d: %v", i, j, i != j)
			}
		}
	}
	path := filepath.Join(root, specs.ImageIndexFile)
	content, err := os.ReadFile(path)
	must(t, err)
	for name, damaged := range map[string][]byte{"longer": append(content[:len(content):len(content)], ' '), "shorter": content[:len(content)-1]} {
		must(t, os.WriteFile(path, damaged, 0o600))
		if s.IndexIs(lists[len(lists)-1]) {
			t.Errorf("a file that is %s passes", name)
		}
	}
	must(t, os.Remove(path))
	if s.IndexIs(nil) {
		t.Error("no file passes")
	}
}

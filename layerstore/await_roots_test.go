package layerstore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
)

// TestNothingIsCollectedBeforeRootsAreSet: the index that was lost knew them, and
// whoever sets them anew has not begun yet when the store is open.
func TestNothingIsCollectedBeforeRootsAreSet(t *testing.T) {
	root := t.TempDir()
	later := func() time.Time { return time.Now().Add(time.Hour) } // nothing was used a moment ago
	s := open(t, layerstore.Options{Root: root})
	put := func(content string) {
		if err := s.Put(t.Context(), specs.Descriptor{Digest: digest.FromString(content), Size: int64(len(content))}, []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	put("promised")
	put("another")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(root, "layerstore.db")); err != nil {
		t.Fatal(err)
	}
	s = open(t, layerstore.Options{Root: root, MaxSize: 1, AwaitRoots: true, Now: later})
	t.Cleanup(func() { s.Close() })
	for n := range 20 { // each of which would begin a collection
		put(fmt.Sprint("more ", n))
	}
	if err := s.SetRoot("a promise", digest.FromString("promised")); err != nil {
		t.Fatal(err)
	}
	s.RootsSet()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := s.Stat(digest.FromString("another")); err != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing is collected after they are")
		}
	}
	if _, err := s.Stat(digest.FromString("promised")); err != nil {
		t.Error("what a root keeps was collected before it had its root:", err)
	}
}

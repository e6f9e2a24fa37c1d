package layerstore_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/storetest"
)

// partOf is the one partial file of a store.
func partOf(t *testing.T, root string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(root, "ingest", "*.part"))
	if err != nil || len(found) != 1 {
		t.Fatalf("partial files %v, %v", found, err)
	}
	return found[0]
}

func zero(t *testing.T, path string, at, n int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, n), at); err != nil {
		t.Fatal(err)
	}
}

// wantDigestErrorThenWhole fetches a blob whose partial file is rotten.
func wantDigestErrorThenWhole(t *testing.T, s *layerstore.Store, content []byte) {
	t.Helper()
	desc := describe(content)
	var wrong *layerstore.DigestError
	if err := s.Ensure(t.Context(), desc, storetest.NewSource(content), nil); !errors.As(err, &wrong) {
		t.Errorf("error %v, want a digest error", err)
	}
	if _, err := s.Stat(desc.Digest); !errors.Is(err, layerstore.ErrNotFound) {
		t.Errorf("stat %v, want not found", err)
	}
	src := storetest.NewSource(content)
	b, err := s.Fetch(t.Context(), desc, src)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, error %v", len(got), err)
	}
	if asked := src.Requests(); len(asked) != 1 || asked[0] != (storetest.Request{Offset: 0, End: -1}) {
		t.Errorf("the source was asked %v: something rotten was gone on with", asked)
	}
}

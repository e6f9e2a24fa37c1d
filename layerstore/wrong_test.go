package layerstore_test

import (
	"errors"
	"io"
	"testing"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/storetest"
)

// TestReaderOfAWrongBlobLearnsThatItIsWrong opens readers of a blob that is
// thrown away at that moment: they must not take the lack of its file for a disk
// that fails, and ask the source once more, past the store.
func TestReaderOfAWrongBlobLearnsThatItIsWrong(t *testing.T) {
	s := open(t, layerstore.Options{Root: t.TempDir()})
	defer s.Close()
	content := random(3000)
	other := append([]byte{content[0] ^ 1}, content[1:]...)
	for range 500 {
		src := storetest.NewSource(other)
		b, err := s.Fetch(t.Context(), describe(content), src)
		if err == nil {
			_, err = io.Copy(io.Discard, b)
			b.Close()
		}
		if wrong := new(layerstore.DigestError); !errors.As(err, &wrong) {
			t.Fatalf("error %v, want a digest error", err)
		}
		if n := len(src.Requests()); n != 1 {
			t.Fatalf("the source was asked %d times", n)
		}
	}
}

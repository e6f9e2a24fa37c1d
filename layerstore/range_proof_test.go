package layerstore

import (
	"errors"
	"io"
	"os"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// A range of an old blob is relied on as the whole is: it is complete when the
// blob is proven, which is done once for all who read.
func TestLastByteOfARangeIsHeldUntilTheBlobIsProvenAgain(t *testing.T) {
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, desc := agedBlob(t, root)
		defer s.Close()
		for range verifiesAtOnce {
			s.turns <- struct{}{} // nothing can be proven
		}
		const from, to = 1000, 3000
		ended := make(chan error, 3)
		for range 2 {
			b := openInside(t, s, desc.Digest)
			defer b.Close()
			_, _ = b.Seek(from, io.SeekStart)
			b.Limit(to - from)
			if _, err := io.CopyN(io.Discard, b, to-from-1); err != nil {
				t.Errorf("all but the last byte: %v", err)
			}
			go func() {
				_, err := b.Read(make([]byte, 10))
				ended <- err
			}()
		}
		b := openInside(t, s, desc.Digest)
		defer b.Close()
		go func() {
			_, err := b.ReadAt(make([]byte, to-from), from)
			ended <- err
		}()
		synctest.Wait()
		if len(ended) > 0 || len(s.verifying) != 1 || b.Proven() {
			t.Errorf("%d ranges have ended, %d proofs are made, proven %t", len(ended), len(s.verifying), b.Proven())
		}
		for range verifiesAtOnce {
			<-s.turns
		}
		for range cap(ended) {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		again := openInside(t, s, desc.Digest)
		defer again.Close()
		if again.flight != nil || !b.Proven() || !again.Proven() {
			t.Error("a blob that is proven is proven again")
		}
	})
}

func TestRangeOfARottenBlobIsCut(t *testing.T) {
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, desc := agedBlob(t, root)
		defer s.Close()
		f, err := os.OpenFile(s.layout.blob(desc.Digest), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{0xff, 0xff, 0xff}, 100_000); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		b := openInside(t, s, desc.Digest)
		defer b.Close()
		_, _ = b.Seek(50, io.SeekStart)
		b.Limit(1000)
		n, err := io.Copy(io.Discard, b)
		if n == 1000 || !errors.As(err, new(*RotError)) {
			t.Errorf("%d of 1000 bytes, %v", n, err)
		}
	})
}

func openInside(t *testing.T, s *Store, d digest.Digest) *Blob {
	t.Helper()
	b, err := s.Fetch(t.Context(), specs.Descriptor{Digest: d}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

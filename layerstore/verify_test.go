package layerstore

import (
	"context"
	"io"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// agedBlob is a store with one large blob whose proof counts no more.
func agedBlob(t *testing.T, root string) (*Store, specs.Descriptor) {
	t.Helper()
	s, err := Open(Options{Root: filepath.Join(root, "store"), ScrubRate: -1})
	if err != nil {
		t.Fatal(err)
	}
	content := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content) // never fails
	desc := specs.Descriptor{Digest: digest.FromBytes(content), Size: int64(len(content))}
	if err := s.Put(t.Context(), desc, content); err != nil {
		t.Fatal(err)
	}
	time.Sleep(8 * 24 * time.Hour) // of the bubble
	return s, desc
}

func TestLastBytesAreHeldUntilTheBlobIsProvenAgain(t *testing.T) {
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, desc := agedBlob(t, root)
		defer s.Close()
		for range verifiesAtOnce {
			s.turns <- struct{}{} // nothing can be proven
		}
		const readers = 3
		ended := make(chan error, readers)
		for range readers {
			b, err := s.Fetch(t.Context(), desc, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if b.Outcome() != Hit {
				t.Errorf("outcome %v", b.Outcome())
			}
			if _, err := io.CopyN(io.Discard, b, desc.Size-verifyFirst); err != nil {
				t.Errorf("all but the last bytes: %v", err)
			}
			go func() {
				_, err := io.CopyN(io.Discard, b, 1)
				ended <- err
			}()
		}
		synctest.Wait()
		if len(ended) > 0 || len(s.verifying) != 1 {
			t.Errorf("%d readers have ended, %d proofs are made", len(ended), len(s.verifying))
		}
		for range verifiesAtOnce {
			<-s.turns
		}
		for range readers {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		if len(s.verifying) != 0 {
			t.Error("the proof is made and still listed")
		}
	})
}

func TestCloseCutsReadersOfWhatIsNotProvenAgain(t *testing.T) {
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, desc := agedBlob(t, root)
		for range verifiesAtOnce {
			s.turns <- struct{}{}
		}
		b, err := s.Fetch(t.Context(), desc, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if n, err := io.Copy(io.Discard, b); n != desc.Size-verifyFirst || err != ErrClosed {
			t.Errorf("%d bytes, %v", n, err)
		}
		if _, err := s.Fetch(t.Context(), desc, nil); err == nil {
			t.Error("a closed store begins a proof")
		}
	})
}

// The background pass, and who scrubs what was made of blobs, have one rate together.
func TestTwoWorkersShareARate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, s := time.Now(), &Store{pace: newPace(1 << 20)}
		var workers sync.WaitGroup
		for range 2 {
			workers.Go(func() {
				for range 10 {
					if err := s.ScrubPace(t.Context(), 1<<19); err != nil {
						t.Error(err)
					}
				}
			})
		}
		workers.Wait()
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("10 MiB at 1 MiB/s took %v", took)
		}
	})
}

func TestPaceKeepsItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		p := newPace(1 << 20)
		for range 10 {
			if err := p.wait(t.Context(), 1<<19); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("5 MiB at 1 MiB/s took %v", took)
		}
		time.Sleep(time.Minute) // a disk that was busy: what was missed is not made up for
		began = time.Now()
		for range 10 {
			if err := p.wait(t.Context(), 1<<19); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took < 4*time.Second {
			t.Errorf("5 MiB at 1 MiB/s took %v after a pause", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.wait(ctx, 1<<30); err != context.Canceled {
			t.Errorf("%v", err)
		}
	})
}

package layerstore

import (
	"errors"
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestTheProofOfANewFileIsNoneOfTheOldOne: a reader that has opened a file which
// rots, is taken away, and comes again before the reader looks whether its
// proof is fresh, must not take the new file's proof for its own's.
func TestTheProofOfANewFileIsNoneOfTheOldOne(t *testing.T) {
	s, err := Open(Options{Root: t.TempDir(), ScrubRate: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	content := strings.Repeat("x", 100_000)
	d := putText(t, s, content)
	opened := s.proofs.sealings.Load()
	file, err := os.Open(s.layout.blob(d))
	if err != nil {
		t.Fatal(err)
	}
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := s.trust(&Blob{store: s, file: dup(t, file), digest: d, size: info.Size()}, info, opened); err != nil {
		t.Fatalf("the file that it is about: %v", err)
	} else {
		b.Close()
	}
	rotten := append([]byte("y"), content[1:]...)
	if err := errors.Join(os.WriteFile(s.layout.blob(d), rotten, 0o600), s.Quarantine(d)); err != nil {
		t.Fatal(err)
	}
	putText(t, s, content)
	again, err := s.Fetch(t.Context(), specs.Descriptor{Digest: d}, nil)
	if err != nil {
		t.Fatalf("it came again: %v", err)
	}
	again.Close()
	if b, err := s.trust(&Blob{store: s, file: file, digest: d, size: info.Size()}, info, opened); !errors.Is(err, errReplaced) {
		t.Errorf("the rotten file, by the proof of the new one: %v, %v", b, err)
	}
}

// dup opens the same file again: whoever is given it closes it.
func dup(t *testing.T, f *os.File) *os.File {
	t.Helper()
	again, err := os.Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return again
}

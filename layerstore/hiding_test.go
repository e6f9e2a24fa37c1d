package layerstore

import (
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// What is rotten and could not be taken away is not served again because many
// others were asked for since.
func TestHiddenBlobIsNotForgottenForTheSakeOfOthers(t *testing.T) {
	s, err := Open(Options{Root: t.TempDir(), ScrubRate: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	d := putText(t, s, "rotten")
	s.proofs.hide(d)
	for i := range knownMost + 1 {
		s.proofs.recent.Add(digest.FromString(fmt.Sprint(i)), known{})
	}
	if _, err := s.Fetch(t.Context(), specs.Descriptor{Digest: d}, nil); err == nil {
		t.Error("a hidden blob was served")
	}
	putText(t, s, "rotten")
	s.proofs.sealed(d, 6, s.now())
	if s.proofs.hidden(d) {
		t.Error("a blob that was sealed again stays hidden")
	}
}

func TestProofOfWhatWentIsForgotten(t *testing.T) {
	s, err := Open(Options{Root: t.TempDir(), ScrubRate: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	removed, deleted := putText(t, s, "a"), putText(t, s, "b")
	for _, d := range []digest.Digest{removed, deleted} {
		s.proofs.renew(d, 1)
	}
	if _, err := s.Remove([]digest.Digest{removed}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(deleted); err != nil {
		t.Fatal(err)
	}
	for _, d := range []digest.Digest{removed, deleted} {
		if _, known := s.proofs.of(d); known || !s.proofs.unwritten[d].IsZero() {
			t.Errorf("the proof of %s is kept", d)
		}
	}
}

package layerstore

import (
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// written is how many transactions have written to the index.
func written(t *testing.T, s *Store) (id int) {
	t.Helper()
	if err := s.index.db.View(func(tx *bolt.Tx) error { id = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestHitsWriteNothingAndTheirTimesOnce(t *testing.T) {
	s, err := Open(Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var descs []specs.Descriptor
	for n := range 20 {
		content := fmt.Appendf(nil, "blob %d", n)
		desc := specs.Descriptor{Digest: digest.FromBytes(content), Size: int64(len(content))}
		if err := s.Put(t.Context(), desc, content); err != nil {
			t.Fatal(err)
		}
		descs = append(descs, desc)
	}
	before := written(t, s)
	for n := range 10_000 {
		s.Touch(descs[n%len(descs)].Digest)
	}
	for n := range 200 {
		b, err := s.Fetch(t.Context(), descs[n%len(descs)], nil)
		if err != nil {
			t.Fatal(err)
		}
		b.Close()
	}
	if now := written(t, s); now != before {
		t.Errorf("%d transactions wrote to the index", now-before)
	}
	if err := s.index.touch(s.usage.take()); err != nil {
		t.Fatal(err)
	}
	if now := written(t, s); now != before+1 {
		t.Errorf("%d transactions wrote the times of use, want one", now-before)
	}
}

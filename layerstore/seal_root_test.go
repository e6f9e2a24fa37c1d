package layerstore

import (
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// written is how many transactions the index has seen.
func (s *Store) written(t *testing.T) (transactions int) {
	t.Helper()
	if err := s.index.db.View(func(tx *bolt.Tx) error { transactions = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return transactions
}

func newRootStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(Options{Root: t.TempDir(), LookEvery: -1, ScrubRate: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// commitString seals content that is written in.
func (s *Store) commitString(t *testing.T, root, content string) {
	t.Helper()
	i, err := s.Ingest("x", specs.Descriptor{})
	if err == nil {
		_, err = i.Write([]byte(content))
	}
	if err == nil {
		_, err = i.CommitRooted(t.Context(), root, specs.Descriptor{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (s *Store) putString(t *testing.T, root, content string, refs ...digest.Digest) {
	t.Helper()
	desc := specs.Descriptor{Digest: digest.FromString(content), Size: int64(len(content))}
	if err := s.PutRooted(t.Context(), root, desc, []byte(content), refs...); err != nil {
		t.Fatal(err)
	}
}

func TestARootIsSetInTheWriteThatSeals(t *testing.T) {
	s := newRootStore(t)
	before := s.written(t)
	s.commitString(t, "one", "layer")
	s.putString(t, "two", "manifest", digest.FromString("layer"))
	if n := s.written(t) - before; n != 2 {
		t.Errorf("%d transactions for two blobs with their roots", n)
	}
	roots, err := s.Roots()
	if err != nil || len(roots) != 2 || roots["one"] != digest.FromString("layer") || roots["two"] != digest.FromString("manifest") {
		t.Errorf("roots %v, %v", roots, err)
	}
}

func TestWhatIsThereIsNotWrittenAgain(t *testing.T) {
	s := newRootStore(t)
	top, child := digest.FromString("manifest"), digest.FromString("layer")
	s.putString(t, "one", "manifest", child)
	before := s.written(t)
	s.putString(t, "one", "manifest", child)
	s.putString(t, "", "manifest", child)
	if err := s.SetRoot("one", top); err != nil {
		t.Fatal(err)
	}
	if n := s.written(t) - before; n != 0 {
		t.Errorf("%d transactions for what was there", n)
	}
	s.putString(t, "two", "manifest", child)
	s.putString(t, "", "manifest", digest.FromString("another"))
	if err := s.SetRoot("one", child); err != nil {
		t.Fatal(err)
	}
	roots, err := s.Roots()
	refs, rerr := s.Refs(top)
	if err != nil || rerr != nil || roots["two"] != top || roots["one"] != child || len(refs) != 2 {
		t.Errorf("roots %v, %v, refs %v, %v", roots, err, refs, rerr)
	}
}

// What could not be written is told, so its root must not come later by itself.
func TestTheRootOfALateRowIsNotSet(t *testing.T) {
	var l lateRows
	l.add([]sealed{{digest: digest.FromString("a"), root: "one"}})
	if got := l.list(); len(got) != 1 || got[0].root != "" {
		t.Errorf("%+v", got)
	}
}

package layerstore

import (
	"errors"
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// An index of schema 1, or one in which a bit flipped, knows no referrers, or
// wrong ones. A blob that an image needs would go.
func TestReferrersAreMadeFromTheEdges(t *testing.T) {
	for name, spoil := range map[string]func(tx *bolt.Tx) error{
		"schema 1": func(tx *bolt.Tx) error {
			if err := tx.Bucket(bucketMeta).Put(keySchema, []byte("1")); err != nil {
				return err
			}
			return tx.DeleteBucket(bucketReferrers)
		},
		"a flipped bit": func(tx *bolt.Tx) error {
			k, _ := tx.Bucket(bucketReferrers).Cursor().First()
			flipped := append([]byte(nil), k...)
			flipped[len(flipped)-1] ^= 1
			if err := tx.Bucket(bucketReferrers).Delete(k); err != nil {
				return err
			}
			return tx.Bucket(bucketReferrers).Put(flipped, []byte{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			s, err := Open(Options{Root: root})
			if err != nil {
				t.Fatal(err)
			}
			child := putText(t, s, "layer")
			parent := putText(t, s, "manifest", child)
			if err := s.index.db.Update(spoil); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if s, err = Open(Options{Root: root}); err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			var found []digest.Digest
			err = s.index.db.View(func(tx *bolt.Tx) error {
				referrersOf(tx, child, func(d digest.Digest) bool {
					found = append(found, d)
					return true
				})
				return nil
			})
			if err != nil || len(found) != 1 || found[0] != parent {
				t.Errorf("referrers %v, %v", found, err)
			}
			if err := s.Delete(child); err == nil {
				t.Error("a layer of an image went")
			}
		})
	}
}

// What a removal costs grows with what it removes, not with the store: all of it
// happens while nothing can be sealed.
func TestRemovalReadsNoMoreThanItsReferrers(t *testing.T) {
	s, err := Open(Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	needed := putText(t, s, "layer")
	putText(t, s, "manifest", needed)
	var others []digest.Digest
	for i := range 5000 {
		others = append(others, digest.FromString(fmt.Sprint("other ", i)))
	}
	putText(t, s, "large index", others...)
	cost := testing.AllocsPerRun(5, func() {
		if err := s.Delete(needed); !errors.Is(err, ErrNeeded) {
			t.Error(err)
		}
	})
	if cost > 1000 {
		t.Errorf("%.0f allocations to find one referrer among 5000 edges", cost)
	}
}

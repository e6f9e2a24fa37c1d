package layerstore

import (
	"bytes"
	"slices"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// SetRefs records that parent refers to children, durably. Edges are only
// added: a parent is content, and content does not change its mind. [Store.Put]
// records the edges of what it keeps by itself.
func (s *Store) SetRefs(parent digest.Digest, children []digest.Digest) error {
	return storageError("record edges", s.index.db.Update(func(tx *bolt.Tx) error {
		return putRefs(tx, parent, children)
	}))
}

// Refs are the digests that parent refers to.
func (s *Store) Refs(parent digest.Digest) (children []digest.Digest, err error) {
	err = s.index.db.View(func(tx *bolt.Tx) error {
		children = refsOf(tx, parent)
		return nil
	})
	return children, storageError("read edges", err)
}

func refsOf(tx *bolt.Tx, parent digest.Digest) (children []digest.Digest) {
	prefix := refKey(parent, "")
	c := tx.Bucket(bucketRefs).Cursor()
	for k, _ := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		_, child := splitRefKey(k)
		children = append(children, child)
	}
	return children
}

// SetRoot keeps d, and everything it refers to, under a name until
// [Store.DeleteRoot]. A root may be set before its blobs are here. It is
// durable when SetRoot returns.
//
// Content that is sealed with a root ([Store.PutRooted], [Ingest.CommitRooted])
// has it from its first moment, without a write of its own.
func (s *Store) SetRoot(name string, d digest.Digest) error {
	var known bool
	err := s.index.db.View(func(tx *bolt.Tx) error { known = hasRoot(tx, name, d); return nil })
	if err == nil && !known {
		err = s.index.db.Batch(func(tx *bolt.Tx) error { return putRoot(tx, name, d) })
	}
	return storageError("set root", err)
}

// putRoot does nothing for the root "".
func putRoot(tx *bolt.Tx, name string, d digest.Digest) error {
	if name == "" {
		return nil
	}
	return tx.Bucket(bucketRoots).Put([]byte(name), []byte(d))
}

func hasRoot(tx *bolt.Tx, name string, d digest.Digest) bool {
	return name == "" || string(tx.Bucket(bucketRoots).Get([]byte(name))) == string(d)
}

// DeleteRoot forgets a root; one that is not there is no error.
func (s *Store) DeleteRoot(name string) error { return s.ChangeRoots(nil, []string{name}) }

// ChangeRoots is SetRoot and DeleteRoot for many, in one write: all of it is done
// or nothing.
func (s *Store) ChangeRoots(set map[string]digest.Digest, gone []string) error {
	if len(set)+len(gone) == 0 {
		return nil
	}
	return storageError("change roots", s.index.db.Batch(func(tx *bolt.Tx) error {
		for name, d := range set {
			if err := putRoot(tx, name, d); err != nil {
				return err
			}
		}
		for _, name := range gone {
			if err := tx.Bucket(bucketRoots).Delete([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	}))
}

// Roots are all roots by name.
func (s *Store) Roots() (map[string]digest.Digest, error) {
	roots := map[string]digest.Digest{}
	err := s.index.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketRoots).ForEach(func(k, v []byte) error {
			roots[string(k)] = digest.Digest(v)
			return nil
		})
	})
	return roots, storageError("read roots", err)
}

// Closure is every digest that can be reached from the given ones by edges,
// themselves included, whether their blobs are here or not.
func (s *Store) Closure(from ...digest.Digest) (reached map[digest.Digest]bool, err error) {
	err = s.index.db.View(func(tx *bolt.Tx) error {
		reached = mark(from, func(d digest.Digest) []digest.Digest { return refsOf(tx, d) })
		return nil
	})
	return reached, storageError("read edges", err)
}

// mark knows no storage: it follows refs from the given digests to all that
// can be reached.
func mark(from []digest.Digest, refs func(digest.Digest) []digest.Digest) map[digest.Digest]bool {
	reached := map[digest.Digest]bool{}
	for todo := slices.Clone(from); len(todo) > 0; {
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if reached[d] {
			continue
		}
		reached[d] = true
		todo = append(todo, refs(d)...)
	}
	return reached
}

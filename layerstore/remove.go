package layerstore

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// Freed counts what a removal took from the disk.
type Freed struct {
	Blobs int   `json:"blobs"`
	Bytes int64 `json:"bytes"`
}

// Remove deletes the given blobs and what is referred to by them alone. What
// a root or a lease keeps stays, so does what any other parent in the store
// refers to, and so does keep with all it refers to. Open readers read on. Rows
// go in one transaction, files afterwards: a kill in between leaves files
// without rows, which the next Open takes in again. What was made of the blobs
// goes too (see [Derived]). Errors: [ErrClosed], *[StorageError].
func (s *Store) Remove(tops, keep []digest.Digest) (freed Freed, err error) {
	var doomed, away []digest.Digest
	t := s.newTrash()
	// Apart from sealing: a blob that is put again between row and file would
	// lose its file.
	closed := s.commit.apart(func() { doomed, away, err = s.remove(tops, keep, t) })
	if closed != nil || err != nil {
		return Freed{}, errors.Join(closed, err)
	}
	freed, err = t.empty()
	if len(doomed) > 0 {
		freed.Bytes += s.forms().Drop(append(doomed, away...))
	}
	return freed, storageError("remove blobs", err)
}

func (s *Store) remove(tops, keep []digest.Digest, t *trash) (doomed, away []digest.Digest, err error) {
	s.inUse.begin(nil) // no lease begins between the look at leases and the files
	defer s.inUse.end()
	if doomed, away, err = s.dropOnlyOf(tops, keep); err != nil {
		return nil, nil, storageError("remove rows", err)
	}
	t.take(doomed)
	return doomed, away, nil
}

// dropOnlyOf drops the rows of the sealed part of the closure of tops that
// nothing else needs. It finds them in the transaction that drops them, so that
// a root set meanwhile counts. The rest of what nothing else needs is away.
func (s *Store) dropOnlyOf(tops, keep []digest.Digest) (doomed, away []digest.Digest, err error) {
	var size int64
	err = s.index.db.Update(func(tx *bolt.Tx) error {
		doomed, away, size = nil, nil, 0
		refs := func(d digest.Digest) []digest.Digest { return refsOf(tx, d) }
		candidates := mark(tops, refs)
		needed := mark(s.watch(tx, keep...).neededOf(candidates), refs)
		for d := range candidates {
			value := tx.Bucket(bucketBlobs).Get([]byte(d))
			if needed[d] {
				continue
			}
			if value == nil {
				away = append(away, d)
				continue
			}
			var r row
			if err := json.Unmarshal(value, &r); err != nil {
				return fmt.Errorf("row of %s: %w", d, err)
			}
			doomed, size = append(doomed, d), size+r.Size
		}
		return dropRows(tx, doomed)
	})
	if err == nil {
		s.count(-len(doomed), -size)
	}
	return doomed, away, err
}

// neededOf are those of the candidates that are kept, or that a parent refers to
// which is none, whether it is here or not.
func (h *holders) neededOf(candidates map[digest.Digest]bool) (needed []digest.Digest) {
	for d := range candidates {
		held := h.keeping[d]
		referrersOf(h.tx, d, func(parent digest.Digest) bool {
			held = held || !candidates[parent]
			return !held
		})
		if held {
			needed = append(needed, d)
		}
	}
	return needed
}

package layerstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

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
// without rows, which the next Open takes in again. Errors: [ErrClosed], *[StorageError].
func (s *Store) Remove(tops, keep []digest.Digest) (freed Freed, err error) {
	// Apart from sealing: a blob that is put again between row and file would
	// lose its file.
	closed := s.commit.apart(func() { freed, err = s.remove(tops, keep) })
	if closed != nil {
		return Freed{}, closed
	}
	return freed, err
}

func (s *Store) remove(tops, keep []digest.Digest) (Freed, error) {
	s.inUse.begin(nil) // no lease begins between the look at leases and the files
	defer s.inUse.end()
	doomed, err := s.dropOnlyOf(tops, keep)
	if err != nil {
		return Freed{}, storageError("remove rows", err)
	}
	var freed Freed
	var failed []error
	for _, d := range doomed {
		n, err := s.removeFile(d)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			failed = append(failed, err)
			continue
		}
		freed.Blobs++
		freed.Bytes += n
	}
	return freed, storageError("remove blobs", errors.Join(failed...))
}

func (s *Store) removeFile(d digest.Digest) (int64, error) {
	path := s.layout.blob(d)
	info, err := os.Lstat(path)
	if err != nil {
		return 0, err
	}
	return info.Size(), os.Remove(path)
}

// dropOnlyOf drops the rows of the sealed part of the closure of tops that
// nothing else needs. It finds them in the transaction that drops them, so that
// a root set meanwhile counts.
func (s *Store) dropOnlyOf(tops, keep []digest.Digest) (doomed []digest.Digest, err error) {
	var size int64
	err = s.index.db.Update(func(tx *bolt.Tx) error {
		doomed, size = nil, 0
		refs := func(d digest.Digest) []digest.Digest { return refsOf(tx, d) }
		candidates := mark(tops, refs)
		needed := mark(s.holders(tx, candidates, keep), refs)
		for d := range candidates {
			value := tx.Bucket(bucketBlobs).Get([]byte(d))
			if needed[d] || value == nil {
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
	return doomed, err
}

// holders are keep, all roots and leases, and every parent that is not itself a
// candidate.
func (s *Store) holders(tx *bolt.Tx, candidates map[digest.Digest]bool, keep []digest.Digest) []digest.Digest {
	_, leased := s.inUse.holders()
	holders := slices.Concat(keep, leased)
	roots := tx.Bucket(bucketRoots).Cursor()
	for k, v := roots.First(); k != nil; k, v = roots.Next() {
		holders = append(holders, digest.Digest(v))
	}
	var last digest.Digest
	edges := tx.Bucket(bucketRefs).Cursor()
	for k, _ := edges.First(); k != nil; k, _ = edges.Next() {
		parent, _ := splitRefKey(k)
		if parent != last && !candidates[parent] {
			holders = append(holders, parent)
		}
		last = parent
	}
	return holders
}

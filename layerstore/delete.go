package layerstore

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// ErrNeeded: a blob is kept by a root or a lease, or another blob that is here
// refers to it.
var ErrNeeded = errors.New("kept, or part of an image that is here")

// Delete deletes one blob and nothing that it refers to, unlike [Store.Remove].
// Open readers read on. When it returns nil the blob is gone, also after a
// restart but for a power cut, after which it may be found again; what
// [Store.OnEvict] named was told. Errors: [ErrNotFound], [ErrNeeded],
// [ErrClosed], *[StorageError].
func (s *Store) Delete(d digest.Digest) error {
	if err := checkDigest(d); err != nil {
		return err
	}
	t := s.newTrash()
	var err error
	if closed := s.commit.apart(func() { err = s.delete(d, t) }); closed != nil {
		return closed
	}
	if _, failed := t.empty(); failed != nil {
		err = errors.Join(err, storageError("delete blob", failed))
	}
	if err == nil {
		s.forms().Drop([]digest.Digest{d})
	}
	return err
}

func (s *Store) delete(d digest.Digest, t *trash) error {
	s.inUse.begin(nil) // no lease begins between the look at leases and the file
	defer s.inUse.end()
	if _, late := s.index.late.get(d); late {
		return storageError("delete row", errLate)
	}
	size, err := s.dropUnneeded(d)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrNeeded) {
		return fmt.Errorf("%s: %w", d, err)
	}
	if err != nil {
		return storageError("delete row", err)
	}
	s.count(-1, -size)
	t.take([]digest.Digest{d})
	s.tellEvicted([]digest.Digest{d})
	return nil
}

// dropUnneeded drops the row of a blob unless something needs it, in one
// transaction, so that a root set meanwhile counts. It returns the blob's size.
func (s *Store) dropUnneeded(d digest.Digest) (size int64, err error) {
	err = s.index.db.Update(func(tx *bolt.Tx) error {
		value := tx.Bucket(bucketBlobs).Get([]byte(d))
		if value == nil {
			return ErrNotFound
		}
		if s.watch(tx).need(d) {
			return ErrNeeded
		}
		var r row
		if err := json.Unmarshal(value, &r); err != nil {
			return fmt.Errorf("row of %s: %w", d, err)
		}
		size = r.Size
		return dropRows(tx, []digest.Digest{d})
	})
	return size, err
}

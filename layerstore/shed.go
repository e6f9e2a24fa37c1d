package layerstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// ErrInUse: a blob is being read or fetched, belongs to what a lease keeps, or
// was used a moment ago.
var ErrInUse = errors.New("in use")

// Shed drops the bytes of a blob though images that are here name it, because
// what was made of it (see [Derived]) stands for it, and it can be had again. What
// is left is what there is of a blob that was never fetched: the edges that lead
// to it. So nothing has to be remembered, and nothing can contradict what is
// on the disk: who asks for it has it fetched, and a kill halfway leaves a file
// without a row, which the next Open takes in.
//
// A blob stays that names others, that a root itself names (ErrNeeded), or that
// somebody uses or used within unused (ErrInUse). Errors besides: [ErrNotFound],
// [ErrClosed], *[StorageError].
func (s *Store) Shed(d digest.Digest, unused time.Duration) (freed int64, err error) {
	if err := checkDigest(d); err != nil {
		return 0, err
	}
	t := s.newTrash()
	if closed := s.commit.apart(func() { err = s.shed(d, unused, t) }); closed != nil {
		return 0, closed
	}
	gone, failed := t.empty()
	return gone.Bytes, errors.Join(err, storageError("drop blob", failed))
}

func (s *Store) shed(d digest.Digest, unused time.Duration, t *trash) error {
	s.inUse.begin([]digest.Digest{d}) // who comes for it waits, and then has it fetched
	defer s.inUse.end()
	if _, late := s.index.late.get(d); late {
		return storageError("delete row", errLate)
	}
	if at, ok := s.usage.last(d); ok && s.now().Sub(at) < unused {
		return fmt.Errorf("%s: %w", d, ErrInUse)
	}
	size, err := s.dropUnused(d, unused)
	switch {
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrNeeded), errors.Is(err, ErrInUse):
		return fmt.Errorf("%s: %w", d, err)
	case err != nil:
		return storageError("delete row", err)
	}
	s.count(-1, -size)
	t.take([]digest.Digest{d})
	return nil
}

// dropUnused drops the row of a blob that may be shed, and returns its size.
func (s *Store) dropUnused(d digest.Digest, unused time.Duration) (size int64, err error) {
	flying := s.inFlight()
	reading, leased := s.inUse.holders()
	err = s.index.db.Update(func(tx *bolt.Tx) error {
		value := tx.Bucket(bucketBlobs).Get([]byte(d))
		if value == nil {
			return ErrNotFound
		}
		var r row
		if err := json.Unmarshal(value, &r); err != nil {
			return fmt.Errorf("row of %s: %w", d, err)
		}
		size = r.Size
		switch {
		case len(refsOf(tx, d)) > 0, slices.Contains(rootsOf(tx), d):
			return ErrNeeded
		case s.now().Sub(r.Used) < unused, slices.Contains(flying, d), slices.Contains(reading, d), leads(tx, leased, d):
			return ErrInUse
		}
		return dropRows(tx, []digest.Digest{d})
	})
	return size, err
}

// leads reports whether edges lead from some of the given digests to d, or one is d.
func leads(tx *bolt.Tx, from []digest.Digest, d digest.Digest) bool {
	above := mark([]digest.Digest{d}, func(child digest.Digest) (parents []digest.Digest) {
		referrersOf(tx, child, func(parent digest.Digest) bool {
			parents = append(parents, parent)
			return true
		})
		return parents
	})
	return slices.ContainsFunc(from, func(d digest.Digest) bool { return above[d] })
}

// Referrers are the blobs that are here and refer to a digest, which need not be.
func (s *Store) Referrers(d digest.Digest) (parents []digest.Digest, err error) {
	var all []digest.Digest
	err = s.index.db.View(func(tx *bolt.Tx) error {
		referrersOf(tx, d, func(parent digest.Digest) bool {
			all = append(all, parent)
			return true
		})
		return nil
	})
	for _, parent := range all {
		if _, absent := s.index.get(parent); absent == nil {
			parents = append(parents, parent)
		}
	}
	return parents, storageError("read edges", err)
}

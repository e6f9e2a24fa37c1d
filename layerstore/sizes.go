package layerstore

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// Sizes tells which of some blobs are sealed, and how many bytes each has, by
// one look at the index: a [Store.Stat] of each would be a transaction of each.
// A digest that cannot be is not here.
func (s *Store) Sizes(of []digest.Digest) (map[digest.Digest]int64, error) {
	sizes := make(map[digest.Digest]int64, len(of))
	err := s.index.db.View(func(tx *bolt.Tx) error {
		rows := tx.Bucket(bucketBlobs)
		for _, d := range of {
			value := rows.Get([]byte(d))
			if value == nil {
				continue
			}
			var r row
			if err := json.Unmarshal(value, &r); err != nil {
				return fmt.Errorf("row of %s: %w", d, err)
			}
			sizes[d] = r.Size
		}
		return nil
	})
	if err != nil {
		return nil, storageError("read index", err)
	}
	if s.index.late.any() {
		for _, d := range of {
			if late, ok := s.index.late.get(d); ok {
				sizes[d] = late.Size
			}
		}
	}
	return sizes, nil
}

package boltfile

import (
	"fmt"
	"strconv"

	bolt "go.etcd.io/bbolt"
)

// Schema checks the version of a file's rows, which stands under key as decimal
// text, and makes it the known one: rows of earlier versions are the caller's to
// bring up, in the same transaction. A later version is refused by an error that
// wraps newer; one that is no number is a [Damage].
func Schema(meta *bolt.Bucket, key []byte, known int, newer error) error {
	if v := meta.Get(key); v != nil {
		found, err := strconv.Atoi(string(v))
		if err != nil {
			return &Damage{fmt.Errorf("schema version %q is not a number", v)}
		}
		if found > known {
			return fmt.Errorf("schema %d, this program knows %d: %w", found, known, newer)
		}
	}
	return meta.Put(key, []byte(strconv.Itoa(known)))
}

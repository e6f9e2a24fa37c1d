package contentstore_test

import (
	"testing"

	bolt "go.etcd.io/bbolt"
)

// setSchema makes a file of labels of another version.
func setSchema(t *testing.T, path, version string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	must(t, err)
	must(t, db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists([]byte("meta"))
		if err != nil {
			return err
		}
		return meta.Put([]byte("schema"), []byte(version))
	}))
	must(t, db.Close())
}

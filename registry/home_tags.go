package registry

import (
	"bytes"

	bolt "go.etcd.io/bbolt"
)

// tags lists all tags of a repository, sorted. A repository to which nothing
// was ever pushed is not known. It reads the rows of this repository alone,
// which are sorted: there may be thousands of others.
func (h *home) tags(in Repository) ([]string, error) {
	tags, known := []string{}, false
	err := h.r.state.db.View(func(tx *bolt.Tx) error {
		prefix := []byte(in.String() + ":")
		c := tx.Bucket(bucketTags).Cursor()
		for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
			tags = append(tags, string(k[len(prefix):]))
		}
		known = len(tags) > 0 || holdsAny(tx, in)
		return nil
	})
	if err == nil && !known {
		err = notPushed(CodeNameUnknown, in.String())
	}
	return tags, err
}

// holdsAny reports whether anything is in a repository of a home.
func holdsAny(tx *bolt.Tx, in Repository) bool {
	prefix := holdKey(in, "")
	k, _ := tx.Bucket(bucketHome).Cursor().Seek(prefix)
	return bytes.HasPrefix(k, prefix)
}

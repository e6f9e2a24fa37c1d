package layerstore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// schema is the version of the index that this code reads and writes.
const schema = 1

var (
	bucketMeta  = []byte("meta")
	bucketBlobs = []byte("blobs")
	bucketRefs  = []byte("refs")
	bucketRoots = []byte("roots")
	keySchema   = []byte("schema")
)

// index is what is known about blobs: the bolt file drawn in the package comment.
type index struct{ db *bolt.DB }

// row is what the index says of one sealed blob.
type row struct {
	Size      int64     `json:"size"` // bytes
	MediaType string    `json:"mediaType,omitempty"`
	Sealed    time.Time `json:"sealed"`
	Used      time.Time `json:"used"`
}

func openIndex(path string) (*index, error) {
	// The flock on the root already keeps others out; a second to wait is for
	// tools that look into the file.
	db, err := bolt.Open(path, fileMode, &bolt.Options{Timeout: time.Second, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("%s: %w", path, ErrLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("open index %s: %w", path, err)
	}
	if err := db.Update(prepareIndex); err != nil {
		db.Close()
		return nil, fmt.Errorf("index %s: %w", path, err)
	}
	return &index{db}, nil
}

func prepareIndex(tx *bolt.Tx) error {
	meta, err := tx.CreateBucketIfNotExists(bucketMeta)
	if err != nil {
		return err
	}
	if v := meta.Get(keySchema); v != nil {
		found, err := strconv.Atoi(string(v))
		if err != nil {
			return fmt.Errorf("schema version %q is not a number", v)
		}
		if found > schema {
			return fmt.Errorf("schema %d, this program knows %d: %w", found, schema, ErrNewer)
		}
	}
	for _, name := range [][]byte{bucketBlobs, bucketRefs, bucketRoots} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	return meta.Put(keySchema, []byte(strconv.Itoa(schema)))
}

// sealed is one blob that is to get its row, with the blobs it refers to.
type sealed struct {
	digest digest.Digest
	row    row
	refs   []digest.Digest
}

// putRows writes the rows and edges of a batch in one transaction. It returns
// how many blobs had no row before, and their bytes.
func (x *index) putRows(batch []sealed) (blobs int, size int64, err error) {
	err = x.db.Update(func(tx *bolt.Tx) error {
		blobs, size = 0, 0
		for _, s := range batch {
			isNew, err := putRow(tx, s)
			if err != nil {
				return err
			}
			if isNew {
				blobs, size = blobs+1, size+s.row.Size
			}
		}
		return nil
	})
	return blobs, size, err
}

// putRow keeps the media type of an earlier row where the new one has none.
func putRow(tx *bolt.Tx, s sealed) (isNew bool, err error) {
	rows, key := tx.Bucket(bucketBlobs), []byte(s.digest)
	earlier := rows.Get(key)
	if earlier != nil && s.row.MediaType == "" {
		var r row
		if json.Unmarshal(earlier, &r) == nil { // one that cannot be read is replaced
			s.row.MediaType = r.MediaType
		}
	}
	value, err := json.Marshal(s.row)
	if err != nil {
		return false, err
	}
	if err := rows.Put(key, value); err != nil {
		return false, err
	}
	return earlier == nil, putRefs(tx, s.digest, s.refs)
}

// addRefs adds edges that begin at a blob with a row, and reports whether it
// has one; without, nothing is added.
func (x *index) addRefs(parent digest.Digest, children []digest.Digest) (present bool, err error) {
	if len(children) == 0 {
		_, err := x.get(parent)
		return err == nil, nil
	}
	err = x.db.Update(func(tx *bolt.Tx) error {
		present = tx.Bucket(bucketBlobs).Get([]byte(parent)) != nil
		if !present {
			return nil
		}
		return putRefs(tx, parent, children)
	})
	return present, err
}

func putRefs(tx *bolt.Tx, parent digest.Digest, children []digest.Digest) error {
	for _, child := range children {
		if err := tx.Bucket(bucketRefs).Put(refKey(parent, child), []byte{}); err != nil {
			return err
		}
	}
	return nil
}

func refKey(parent, child digest.Digest) []byte {
	return []byte(string(parent) + "\x00" + string(child))
}

func splitRefKey(k []byte) (parent, child digest.Digest) {
	p, c, _ := bytes.Cut(k, []byte{0})
	return digest.Digest(p), digest.Digest(c)
}

// get is the row of one blob, or ErrNotFound.
func (x *index) get(d digest.Digest) (r row, err error) {
	err = x.db.View(func(tx *bolt.Tx) error {
		value := tx.Bucket(bucketBlobs).Get([]byte(d))
		if value == nil {
			return ErrNotFound
		}
		return json.Unmarshal(value, &r)
	})
	return r, err
}

// each calls f with every row, in the order of digests.
func (x *index) each(f func(digest.Digest, row) error) error {
	return x.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketBlobs).ForEach(func(k, v []byte) error {
			var r row
			if err := json.Unmarshal(v, &r); err != nil {
				return fmt.Errorf("row of %s: %w", k, err)
			}
			return f(digest.Digest(k), r)
		})
	})
}

// drop removes rows, with the edges that begin at them.
func (x *index) drop(digests []digest.Digest) error {
	if len(digests) == 0 {
		return nil
	}
	return x.db.Update(func(tx *bolt.Tx) error { return dropRows(tx, digests) })
}

func dropRows(tx *bolt.Tx, digests []digest.Digest) error {
	for _, d := range digests {
		if err := tx.Bucket(bucketBlobs).Delete([]byte(d)); err != nil {
			return err
		}
		if err := dropRefs(tx, d); err != nil {
			return err
		}
	}
	return nil
}

func dropRefs(tx *bolt.Tx, parent digest.Digest) error {
	prefix := refKey(parent, "")
	c := tx.Bucket(bucketRefs).Cursor()
	var keys [][]byte // a cursor may not be moved on after a delete
	for k, _ := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		if err := tx.Bucket(bucketRefs).Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// touch writes times of use. Digests without a row are passed over.
func (x *index) touch(used map[digest.Digest]time.Time) error {
	if len(used) == 0 {
		return nil
	}
	return x.db.Update(func(tx *bolt.Tx) error {
		blobs := tx.Bucket(bucketBlobs)
		for d, at := range used {
			value := blobs.Get([]byte(d))
			if value == nil {
				continue
			}
			var r row
			if err := json.Unmarshal(value, &r); err != nil {
				return fmt.Errorf("row of %s: %w", d, err)
			}
			r.Used = at
			value, err := json.Marshal(r)
			if err != nil {
				return err
			}
			if err := blobs.Put([]byte(d), value); err != nil {
				return err
			}
		}
		return nil
	})
}

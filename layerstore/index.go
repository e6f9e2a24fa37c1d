package layerstore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/layerstore/boltfile"
)

// schema is the version of the index that this code reads and writes.
const schema = 2

var (
	bucketMeta  = []byte("meta")
	bucketBlobs = []byte("blobs")
	bucketRefs  = []byte("refs")
	bucketRoots = []byte("roots")
	keySchema   = []byte("schema")
)

// index is what is known about blobs: the bolt file drawn in the package comment.
type index struct {
	db    *boltfile.File
	late  lateRows
	epoch uint64 // see row.Epoch
}

// row is what the index says of one sealed blob.
type row struct {
	Size      int64     `json:"size"` // bytes
	MediaType string    `json:"mediaType,omitempty"`
	Sealed    time.Time `json:"sealed"`
	Used      time.Time `json:"used"`
	// Proven is when the bytes were last hashed and right. It counts in the
	// epoch it was written in: how often the store was opened after a stop that
	// was not clean.
	Proven time.Time `json:"proven,omitzero"`
	Epoch  uint64    `json:"epoch,omitempty"`
}

// openIndex opens the index, or makes it; in place of one that is damaged a new
// one is made, which knows the roots, and reconcile fills it.
func openIndex(l layout, log *slog.Logger) (*index, error) {
	x := &index{}
	db, err := boltfile.OpenFile(filepath.Join(l.root, indexName), log, func(tx *bolt.Tx) error {
		made := tx.Bucket(bucketMeta) == nil
		if err := prepareIndex(tx); err != nil || !made {
			return err
		}
		return l.restoreRoots(tx, log)
	}, x.beginAgain)
	if errors.Is(err, boltfile.ErrBusy) {
		err = fmt.Errorf("%w: %w", ErrLocked, err)
	}
	if err != nil {
		return nil, fmt.Errorf("index %w", err)
	}
	x.db = db
	return x, nil
}

func prepareIndex(tx *bolt.Tx) error {
	meta, err := tx.CreateBucketIfNotExists(bucketMeta)
	if err != nil {
		return err
	}
	if err := boltfile.Schema(meta, keySchema, schema, ErrNewer); err != nil {
		return err
	}
	for _, name := range [][]byte{bucketBlobs, bucketRefs, bucketReferrers, bucketRoots, bucketLost} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	return errors.Join(checkRows(tx), alignReferrers(tx))
}

// sealed is one blob that is to get its row, with the blobs it refers to.
type sealed struct {
	digest digest.Digest
	row    row
	refs   []digest.Digest
	root   string // what keeps it, "" for nothing
}

// putRows writes the rows and edges of a batch in one transaction. It returns
// how many blobs had no row before, and their bytes.
func (x *index) putRows(batch []sealed) (blobs int, size int64, err error) {
	err = x.db.Update(func(tx *bolt.Tx) error {
		blobs, size = 0, 0
		for _, s := range batch {
			s.row.Epoch = x.epoch
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
	return earlier == nil, errors.Join(putRefs(tx, s.digest, s.refs), putRoot(tx, s.root, s.digest))
}

// addRefs adds edges that begin at a blob with a row, and the root that keeps
// it, "" for none. It reports whether the blob has a row; without, nothing is
// added. What is there already is not written again.
func (x *index) addRefs(parent digest.Digest, children []digest.Digest, root string) (present bool, err error) {
	if len(children) == 0 && root == "" {
		_, err := x.get(parent)
		return err == nil, nil
	}
	var known bool
	look := func(tx *bolt.Tx) error {
		present = tx.Bucket(bucketBlobs).Get([]byte(parent)) != nil
		known = hasRefs(tx, parent, children) && hasRoot(tx, root, parent)
		return nil
	}
	if err := x.db.View(look); err != nil || !present || known {
		return present, err
	}
	err = x.db.Batch(func(tx *bolt.Tx) error {
		if err := look(tx); err != nil || !present {
			return err
		}
		return errors.Join(putRefs(tx, parent, children), putRoot(tx, root, parent))
	})
	return present, err
}

func hasRefs(tx *bolt.Tx, parent digest.Digest, children []digest.Digest) bool {
	refs := tx.Bucket(bucketRefs)
	return !slices.ContainsFunc(children, func(child digest.Digest) bool { return refs.Get(refKey(parent, child)) == nil })
}

func putRefs(tx *bolt.Tx, parent digest.Digest, children []digest.Digest) error {
	for _, child := range children {
		there := tx.Bucket(bucketRefs).Put(refKey(parent, child), []byte{})
		back := tx.Bucket(bucketReferrers).Put(refKey(child, parent), []byte{})
		if err := errors.Join(there, back); err != nil {
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

// get is the row of one blob, written or late, or ErrNotFound.
func (x *index) get(d digest.Digest) (row, error) {
	r, err := x.written(d)
	if late, ok := x.late.get(d); ok && errors.Is(err, ErrNotFound) {
		return late, nil
	}
	return r, err
}

// written is the row of one blob that survives the process, or ErrNotFound.
func (x *index) written(d digest.Digest) (r row, err error) {
	err = x.db.View(func(tx *bolt.Tx) error {
		value := tx.Bucket(bucketBlobs).Get([]byte(d))
		if value == nil {
			return ErrNotFound
		}
		return json.Unmarshal(value, &r)
	})
	return r, err
}

// each calls f with every row, written or late, in the order of digests.
func (x *index) each(f func(digest.Digest, row) error) error {
	late := x.late.list()
	err := x.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketBlobs).ForEach(func(k, v []byte) error {
			d := digest.Digest(k)
			for ; len(late) > 0 && late[0].digest < d; late = late[1:] {
				if err := f(late[0].digest, late[0].row); err != nil {
					return err
				}
			}
			if len(late) > 0 && late[0].digest == d {
				late = late[1:]
			}
			var r row
			if err := json.Unmarshal(v, &r); err != nil {
				return fmt.Errorf("row of %s: %w", k, err)
			}
			return f(d, r)
		})
	})
	for ; err == nil && len(late) > 0; late = late[1:] {
		err = f(late[0].digest, late[0].row)
	}
	return err
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
		there, back := tx.Bucket(bucketRefs).Delete(k), tx.Bucket(bucketReferrers).Delete(turned(k))
		if err := errors.Join(there, back); err != nil {
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
		for d, at := range used {
			if err := changeRow(tx, d, func(r *row) { r.Used = at }); err != nil {
				return err
			}
		}
		return nil
	})
}

package forms

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/layerstore/boltfile"
)

// schema is the version of the index that this code reads and writes.
const schema = 1

var (
	bucketMeta     = []byte("meta")
	bucketForms    = []byte("forms")
	bucketParented = []byte("parented")
	keySchema      = []byte("schema")
)

// row is what the index says of one form.
type row struct {
	ID      uint64        `json:"id"`
	Key     digest.Digest `json:"key"`
	DiffID  digest.Digest `json:"diffID"`
	Chained bool          `json:"chained,omitempty"` // Key is a chain ID
	Kind    string        `json:"kind"`
	Bytes   int64         `json:"bytes"`
	Inodes  int64         `json:"inodes"`
	// Blobs are the layer as it was met compressed, the newest last.
	Blobs []specs.Descriptor `json:"blobs"`
	// Below are the layers that a chained form was made on, base first.
	Below []below `json:"below,omitempty"`
	// Boot is the boot of the machine in which it was made. Until the form is
	// sealed it counts in that one only.
	Boot   string    `json:"boot"`
	Sealed time.Time `json:"sealed,omitzero"`
	// Bad says why the form must be made again before it is lent.
	Bad string `json:"bad,omitempty"`
	// Digest is of the whole form as it lies on the disk, once it was read after
	// its sealing. Proven is when it was last found right.
	Digest digest.Digest `json:"digest,omitempty"`
	Proven time.Time     `json:"proven,omitzero"`
	Used   time.Time     `json:"used"`
}

// below is a layer that a form was made on.
type below struct {
	DiffID digest.Digest    `json:"diffID"`
	Blob   specs.Descriptor `json:"blob"`
}

// blobsMost is how many compressed kinds of one layer a row remembers.
const blobsMost = 8

// meet notes a blob of the layer; it reports whether it is new.
func (r *row) meet(blob specs.Descriptor) bool {
	same := func(b specs.Descriptor) bool { return b.Digest == blob.Digest }
	if slices.ContainsFunc(r.Blobs, same) {
		return false
	}
	// A copy: readers have the old one without a lock.
	r.Blobs = append(slices.Clone(r.Blobs), specs.Descriptor{MediaType: blob.MediaType, Digest: blob.Digest, Size: blob.Size})
	if extra := len(r.Blobs) - blobsMost; extra > 0 {
		r.Blobs = r.Blobs[extra:]
	}
	return true
}

func (r row) check(id uint64) error {
	if r.ID != id {
		return fmt.Errorf("row of form %d names form %d", id, r.ID)
	}
	if err := errors.Join(r.Key.Validate(), r.DiffID.Validate()); err != nil {
		return fmt.Errorf("row of form %d: %w", id, err)
	}
	if r.Kind != KindDirectory && r.Kind != KindEROFS {
		return fmt.Errorf("row of form %d has kind %q", id, r.Kind)
	}
	return nil
}

// index is the bolt file drawn in the package comment.
type index struct {
	db   *bolt.DB
	at   layout
	log  *slog.Logger
	rows []row // as they were found
	// parented are the diff IDs that were found.
	parented []digest.Digest
}

// openIndex opens the index, or makes it: a new one takes in what the cards tell.
func openIndex(at layout, log *slog.Logger) (*index, error) {
	x := &index{at: at, log: log}
	db, err := boltfile.Open(filepath.Join(at.root, indexName), log, x.prepare)
	if errors.Is(err, boltfile.ErrBusy) {
		err = fmt.Errorf("%w: %w", ErrBusy, err)
	}
	if err != nil {
		return nil, fmt.Errorf("index %w", err)
	}
	// Makings that end together share a sync, and one alone does not wait long.
	db.MaxBatchDelay = 2 * time.Millisecond
	x.db = db
	return x, nil
}

func (x *index) prepare(tx *bolt.Tx) error {
	x.rows, x.parented = nil, nil
	made := tx.Bucket(bucketMeta) == nil
	meta, err := tx.CreateBucketIfNotExists(bucketMeta)
	if err != nil {
		return err
	}
	if err := checkSchema(meta); err != nil {
		return err
	}
	for _, name := range [][]byte{bucketForms, bucketParented} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	if made {
		if err := x.learn(tx); err != nil {
			return err
		}
	}
	if err := x.load(tx); err != nil {
		return &boltfile.Damage{Err: err}
	}
	return meta.Put(keySchema, []byte(strconv.Itoa(schema)))
}

func checkSchema(meta *bolt.Bucket) error {
	v := meta.Get(keySchema)
	if v == nil {
		return nil
	}
	found, err := strconv.Atoi(string(v))
	if err != nil {
		return &boltfile.Damage{Err: fmt.Errorf("schema version %q is not a number", v)}
	}
	if found > schema {
		return fmt.Errorf("schema %d, this program knows %d: %w", found, schema, ErrNewer)
	}
	return nil
}

func (x *index) load(tx *bolt.Tx) error {
	err := tx.Bucket(bucketForms).ForEach(func(k, v []byte) error {
		id, err := strconv.ParseUint(string(k), 10, 64)
		if err != nil {
			return err
		}
		var r row
		if err := json.Unmarshal(v, &r); err != nil {
			return fmt.Errorf("row of form %d: %w", id, err)
		}
		x.rows = append(x.rows, r)
		return r.check(id)
	})
	if err != nil {
		return err
	}
	return tx.Bucket(bucketParented).ForEach(func(k, _ []byte) error {
		x.parented = append(x.parented, digest.Digest(k))
		return digest.Digest(k).Validate()
	})
}

// learn fills a new index from the cards, in the place of one that was damaged.
// What cannot be read or has no bytes is left out: it is made anew.
func (x *index) learn(tx *bolt.Tx) error {
	learned := 0
	for _, name := range names(x.at.rows()) {
		id, ok := numberOf(strings.TrimSuffix(name, ".json"))
		if !ok {
			continue
		}
		r, err := x.readCard(id)
		if err != nil {
			x.log.Warn("what is known of a form cannot be read: it is made anew", "form", id, "error", err)
			continue
		}
		r.Proven = time.Time{} // a disk that damages one file may have damaged others
		if err := putRow(tx, r); err != nil {
			return err
		}
		if r.Chained {
			if err := tx.Bucket(bucketParented).Put([]byte(r.DiffID), nil); err != nil {
				return err
			}
		}
		learned++
	}
	if learned > 0 {
		x.log.Warn("forms learned again from what lies beside them", "forms", learned)
	}
	return nil
}

func (x *index) readCard(id uint64) (r row, err error) {
	content, err := os.ReadFile(x.at.card(id))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(content, &r); err != nil {
		return r, err
	}
	if err := r.check(id); err != nil {
		return r, err
	}
	return r, kindOf(r.Kind).present(x.at, r)
}

// put writes rows in one transaction, and then their cards. Which ones it is told
// within the transaction: of two that write the same row, the later one knows it
// as it is.
func (x *index) put(current func() []row) error {
	var rows []row
	err := x.db.Batch(func(tx *bolt.Tx) error {
		rows = current()
		for _, r := range rows {
			if err := putRow(tx, r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range rows {
		x.writeCard(r)
	}
	return nil
}

func putRow(tx *bolt.Tx, r row) error {
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return tx.Bucket(bucketForms).Put(rowKey(r.ID), value)
}

func rowKey(id uint64) []byte { return strconv.AppendUint(nil, id, 10) }

// writeCard writes the row a second time, beside the index, for the day on which
// that is damaged. It is no promise: nothing is synced.
func (x *index) writeCard(r row) {
	content, err := json.Marshal(r)
	if err != nil {
		return
	}
	temporary := x.at.card(r.ID) + ".tmp"
	if err = os.WriteFile(temporary, content, fileMode); err == nil {
		err = os.Rename(temporary, x.at.card(r.ID))
	}
	if err != nil {
		x.log.Debug("card of a form not written", "form", r.ID, "error", err)
	}
}

// drop deletes rows in one transaction, and then their cards.
func (x *index) drop(ids ...uint64) error {
	err := x.db.Update(func(tx *bolt.Tx) error {
		for _, id := range ids {
			if err := tx.Bucket(bucketForms).Delete(rowKey(id)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range ids {
		_ = os.Remove(x.at.card(id)) // learn looks whether the form is there
	}
	return nil
}

// noteParented remembers that a layer cannot be made without those below it.
func (x *index) noteParented(diffID digest.Digest) error {
	return x.db.Batch(func(tx *bolt.Tx) error { return tx.Bucket(bucketParented).Put([]byte(diffID), nil) })
}

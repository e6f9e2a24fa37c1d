package contentstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/boltfile"
)

// schema is the version of contentstore.db that this code reads and writes.
const schema = 1

var (
	bucketMeta  = []byte("meta")
	bucketBlobs = []byte("blobs")
	keySchema   = []byte("schema")
)

// row is what contentstore.db holds of one blob.
type row struct {
	Labels  map[string]string `json:"labels,omitempty"`
	Updated time.Time         `json:"updated"`
}

// labels is the bolt file drawn in the package comment.
type labels struct{ db *bolt.DB }

// openLabels opens the file, or makes it. The store is locked by its owner, so
// only a second adapter on the same store can hold it.
func openLabels(path string, log *slog.Logger) (*labels, error) {
	db, err := boltfile.Open(path, log, prepare)
	if errors.Is(err, boltfile.ErrBusy) {
		err = fmt.Errorf("%w: %w", layerstore.ErrLocked, err)
	}
	if err != nil {
		return nil, fmt.Errorf("labels: %w", err)
	}
	return &labels{db}, nil
}

func prepare(tx *bolt.Tx) error {
	meta, err := tx.CreateBucketIfNotExists(bucketMeta)
	if err != nil {
		return err
	}
	if err := boltfile.Schema(meta, keySchema, schema, layerstore.ErrNewer); err != nil {
		return err
	}
	rows, err := tx.CreateBucketIfNotExists(bucketBlobs)
	if err != nil {
		return err
	}
	err = rows.ForEach(func(k, _ []byte) error { _, err := read(tx, digest.Digest(k)); return err })
	if err != nil {
		return &boltfile.Damage{Err: err}
	}
	return nil
}

// get is the row of a blob; an empty one where there is none.
func (l *labels) get(d digest.Digest) (r row, err error) {
	err = l.db.View(func(tx *bolt.Tx) error {
		r, err = read(tx, d)
		return err
	})
	return r, err
}

func read(tx *bolt.Tx, d digest.Digest) (r row, err error) {
	value := tx.Bucket(bucketBlobs).Get([]byte(d))
	if value == nil {
		return r, nil
	}
	if err := json.Unmarshal(value, &r); err != nil {
		return r, fmt.Errorf("labels of %s: %w", d, err)
	}
	return r, nil
}

// change replaces the labels of a blob by what f makes of them, durably.
func (l *labels) change(d digest.Digest, now time.Time, f func(map[string]string) map[string]string) (r row, err error) {
	err = l.db.Update(func(tx *bolt.Tx) error {
		if r, err = read(tx, d); err != nil {
			return err
		}
		r = row{Labels: f(r.Labels), Updated: now}
		value, err := json.Marshal(r)
		if err != nil {
			return err
		}
		return tx.Bucket(bucketBlobs).Put([]byte(d), value)
	})
	return r, err
}

// drop forgets blobs. It writes only when there is something to forget.
func (l *labels) drop(digests ...digest.Digest) error {
	var known []digest.Digest
	err := l.db.View(func(tx *bolt.Tx) error {
		for _, d := range digests {
			if tx.Bucket(bucketBlobs).Get([]byte(d)) != nil {
				known = append(known, d)
			}
		}
		return nil
	})
	if err != nil || len(known) == 0 {
		return err
	}
	return l.db.Update(func(tx *bolt.Tx) error {
		for _, d := range known {
			if err := tx.Bucket(bucketBlobs).Delete([]byte(d)); err != nil {
				return err
			}
		}
		return nil
	})
}

// all lists the digests that have a row.
func (l *labels) all() (digests []digest.Digest, err error) {
	err = l.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketBlobs).ForEach(func(k, _ []byte) error {
			digests = append(digests, digest.Digest(k))
			return nil
		})
	})
	return digests, err
}

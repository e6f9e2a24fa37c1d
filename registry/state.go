package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/layerstore/boltfile"
)

// schema is the version of registry.db that this code reads and writes.
const schema = 1

var (
	bucketMeta  = []byte("meta")
	bucketTags  = []byte("tags")
	bucketPins  = []byte("pins")
	bucketHolds = []byte("holds")
	keySchema   = []byte("schema")
	keySalt     = []byte("salt")

	bucketHome    = []byte("home")
	bucketHistory = []byte("history")
	bucketGrants  = []byte("grants")

	// ErrNewer: the state was written by a later version of its format.
	ErrNewer = errors.New("the state was written by a newer version of imagecache")
)

// state is the bolt file drawn in the package comment.
type state struct{ db *boltfile.File }

// tagRow is what is known of a tag.
type tagRow struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`    // bytes of the manifest
	Checked   time.Time     `json:"checked"` // when the row was last written
	Public    bool          `json:"public"`  // upstream gave it without a credential
	// MaxAge is what upstream said of the tag's lifetime, 0 for nothing.
	MaxAge time.Duration `json:"maxAge,omitempty"`
	// Mirror is the host that said so, "" for upstream itself.
	Mirror string `json:"mirror,omitempty"`
}

// pinRow is a pin.
type pinRow struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`
	Platforms []string      `json:"platforms"`
	At        time.Time     `json:"at"`
	// Lockfile: the pin came from the lockfile that the daemon follows, and
	// goes when it is taken out of there.
	Lockfile bool `json:"lockfile,omitempty"`
}

// openState opens registry.db, or makes it with the rows that rescue finds, in
// place of one that is damaged too.
func openState(path string, log *slog.Logger, rescue func() (rescued, error)) (*state, error) {
	db, err := boltfile.OpenFile(path, log, func(tx *bolt.Tx) error {
		made := tx.Bucket(bucketMeta) == nil
		if err := prepareState(tx); err != nil || !made {
			return err
		}
		found, err := rescue()
		if err != nil {
			return err
		}
		if len(found.tags)+len(found.pins) > 0 {
			log.Warn("tags and pins found again", "path", path, "tags", len(found.tags), "pins", len(found.pins))
		}
		return found.write(tx)
	}, nil)
	if err != nil {
		return nil, err
	}
	return &state{db}, nil
}

func prepareState(tx *bolt.Tx) error {
	meta, err := tx.CreateBucketIfNotExists(bucketMeta)
	if err != nil {
		return err
	}
	if err := boltfile.Schema(meta, keySchema, schema, ErrNewer); err != nil {
		return err
	}
	for _, name := range [][]byte{bucketTags, bucketPins, bucketHolds, bucketHistory, bucketHome, bucketReferrers, bucketChains, bucketRootFS} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	if err := prepareGrants(tx); err != nil {
		return err
	}
	return checkRows(tx)
}

// put writes a row as JSON.
func put(tx *bolt.Tx, bucket []byte, key string, row any) error {
	value, err := json.Marshal(row)
	if err != nil {
		return err
	}
	return tx.Bucket(bucket).Put([]byte(key), value)
}

// tag is the row of a tag as it is on disk, the zero value for none.
func (s *state) tag(key string) (row tagRow, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		value := tx.Bucket(bucketTags).Get([]byte(key))
		if value == nil {
			return nil
		}
		return json.Unmarshal(value, &row)
	})
	return row, err
}

// each calls f with every row of a bucket of JSON rows, in the order of keys.
func each[Row any](s *state, bucket []byte, f func(key string, row Row) error) error {
	return s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucket).ForEach(func(k, v []byte) error {
			var row Row
			if err := json.Unmarshal(v, &row); err != nil {
				return fmt.Errorf("row %s of %s: %w", k, bucket, err)
			}
			return f(string(k), row)
		})
	})
}

// A hold says that upstream has a blob in a repository, and whether it gave it
// without a credential.
const (
	holdPublic  = "public"
	holdPrivate = "private"
	holdMirror  = "mirror" // only a mirror has shown it, which proves nothing about what upstream would
)

// howHeld is the hold for what upstream gave, publicly or not.
func howHeld(public bool) string {
	if public {
		return holdPublic
	}
	return holdPrivate
}

func holdKey(in Repository, d digest.Digest) []byte {
	return []byte(in.String() + "@" + d.String())
}

// hold is what is recorded: "" for nothing.
func (s *state) hold(in Repository, d digest.Digest) (how string, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		how = string(tx.Bucket(bucketHolds).Get(holdKey(in, d)))
		return nil
	})
	return how, err
}

func putHolds(tx *bolt.Tx, in Repository, digests []digest.Digest, public bool) error {
	return putHoldsAs(tx, in, digests, howHeld(public))
}

func putHoldsAs(tx *bolt.Tx, in Repository, digests []digest.Digest, how string) error {
	holds := tx.Bucket(bucketHolds)
	for _, d := range digests {
		key := holdKey(in, d)
		if before := string(holds.Get(key)); before == holdPublic || before != "" && how == holdMirror {
			continue // what was public once may be seen; it is never taken back by another credential
		}
		if err := holds.Put(key, []byte(how)); err != nil {
			return err
		}
	}
	return nil
}

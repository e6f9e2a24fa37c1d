package layerstore

import (
	"bytes"
	"hash/maphash"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// bucketReferrers holds the edges the other way round, so that a removal finds
// out what needs a blob without reading what everything else needs.
var bucketReferrers = []byte("referrers")

// referrersOf calls visit with each parent that refers to a blob, until it
// returns false.
func referrersOf(tx *bolt.Tx, child digest.Digest, visit func(parent digest.Digest) bool) {
	prefix := refKey(child, "")
	c := tx.Bucket(bucketReferrers).Cursor()
	for k, _ := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		if _, parent := splitRefKey(k); !visit(parent) {
			return
		}
	}
}

// alignReferrers makes the edges the other way round agree with the edges:
// an index of schema 1 has none, and a flipped bit in a key goes unnoticed by
// the database.
func alignReferrers(tx *bolt.Tx) error {
	seed := maphash.MakeSeed()
	// Sums of hashes, for the order of the two differs.
	var there, back uint64
	refs, referrers := tx.Bucket(bucketRefs), tx.Bucket(bucketReferrers)
	sum := func(bucket *bolt.Bucket, total *uint64, swap bool) error {
		return bucket.ForEach(func(k, _ []byte) error {
			if swap {
				k = turned(k)
			}
			*total += maphash.Bytes(seed, k)
			return nil
		})
	}
	_, _ = sum(refs, &there, false), sum(referrers, &back, true) // neither can fail
	if there == back {
		return nil
	}
	if err := tx.DeleteBucket(bucketReferrers); err != nil {
		return err
	}
	referrers, err := tx.CreateBucket(bucketReferrers)
	if err != nil {
		return err
	}
	return refs.ForEach(func(k, _ []byte) error { return referrers.Put(turned(k), []byte{}) })
}

// turned is the key of an edge the other way round.
func turned(k []byte) []byte { return refKey(swap(splitRefKey(k))) }

func swap(parent, child digest.Digest) (digest.Digest, digest.Digest) { return child, parent }

// holders are what holds blobs at the moment of a removal, in its transaction.
// What it costs to ask grows with the edges that lead to the blob it is asked
// for, not with the store.
type holders struct {
	tx      *bolt.Tx
	keeping map[digest.Digest]bool // these, and all they refer to
	reading map[digest.Digest]bool // these alone
	going   map[digest.Digest]bool // by this removal: what they refer to is not held by it
}

// watch looks at roots and leases, and at what else holds blobs and all they
// refer to.
func (s *Store) watch(tx *bolt.Tx, others ...digest.Digest) *holders {
	reading, leased := s.inUse.holders()
	h := &holders{tx: tx, keeping: map[digest.Digest]bool{}, reading: map[digest.Digest]bool{}, going: map[digest.Digest]bool{}}
	for _, from := range [][]digest.Digest{rootsOf(tx), leased, others} {
		for _, d := range from {
			h.keeping[d] = true
		}
	}
	for _, d := range reading {
		h.reading[d] = true
	}
	return h
}

// sealed reports whether a blob has a row.
func (h *holders) sealed(d digest.Digest) bool { return h.tx.Bucket(bucketBlobs).Get([]byte(d)) != nil }

// need reports whether something keeps a blob, or a blob that is here and not
// going refers to it. A parent that is not here needs nothing by itself, but
// what keeps the parent, or is here and names it, needs the blob.
func (h *holders) need(d digest.Digest) (needed bool) {
	seen := map[digest.Digest]bool{d: true}
	for todo := []digest.Digest{d}; len(todo) > 0 && !needed; {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if h.keeping[at] {
			return true
		}
		referrersOf(h.tx, at, func(parent digest.Digest) bool {
			if seen[parent] || h.going[parent] {
				return true
			}
			seen[parent] = true
			todo = append(todo, parent)
			needed = h.sealed(parent)
			return !needed
		})
	}
	return needed
}

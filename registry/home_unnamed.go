package registry

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/layerstore"
)

const (
	// toldFor is how long a blob of a home stays that a client was told to be
	// there, by HEAD or GET, by a mount or by an upload: it has what it needs to
	// push a manifest, and a push of a large image takes its time.
	toldFor = time.Hour
	// unnamedMost bounds what is noted, some 16 MiB. What finds no room is noted by
	// a later look, and goes later.
	unnamedMost = 64 << 10
	// leftAtOnce is how much of what has left goes in one step: what is sealed meanwhile waits for it.
	leftAtOnce = 1024
)

// unnamedNotes are about blobs of homes that no manifest names. Each is noted when it is
// found, and goes when it is found again after toldFor, unless a client was told
// in between that it is there: then it is noted anew. So nothing need be written
// for a hit, and after a restart, which forgets all notes, nothing goes before
// toldFor has passed.
type unnamedNotes struct {
	mu    sync.Mutex             // guards what follows
	since map[string]time.Time   // when each was noted, by holdKey
	going map[string]bool        // those that are being let go now
	left  map[digest.Digest]bool // what has left a repository since the last sweep
}

// tells reports whether a client may be told that a blob is in a repository. It
// may not while the blob is being let go: the client would not send it.
func (u *unnamedNotes) tells(key string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.since, key)
	return !u.going[key]
}

// note notes a blob unless it is noted.
func (u *unnamedNotes) note(key string, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, noted := u.since[key]; noted || len(u.since) >= unnamedMost {
		return
	}
	if u.since == nil {
		u.since = map[string]time.Time{}
	}
	u.since[key] = now
}

// due reports whether a blob was noted toldFor ago. With take it is going then,
// until it is forgotten.
func (u *unnamedNotes) due(key string, now time.Time, take bool) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	since, noted := u.since[key]
	if !noted || now.Sub(since) < toldFor {
		return false
	}
	if take {
		if u.going == nil {
			u.going = map[string]bool{}
		}
		u.going[key] = true
	}
	return true
}

// forget forgets a blob that is gone, or is named.
func (u *unnamedNotes) forget(key string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.since, key)
	delete(u.going, key)
}

// leaves notes that something has left a repository, so that its bytes go with
// the next sweep. Those that find no room go when space is wanted.
func (u *unnamedNotes) leaves(d digest.Digest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.left == nil {
		u.left = map[digest.Digest]bool{}
	}
	if len(u.left) < unnamedMost {
		u.left[d] = true
	}
}

// takeLeft hands over what has left.
func (u *unnamedNotes) takeLeft() map[digest.Digest]bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	left := u.left
	u.left = nil
	return left
}

// tells is unnamed.tells for what a view shows.
func (r *Registry) tells(v view, d digest.Digest) error {
	if v.upstream.home == nil {
		return nil
	}
	if key := string(holdKey(v.repository, d)); !r.unnamed.tells(key) {
		return notPushed(CodeBlobUnknown, key)
	}
	return nil
}

// dropLeft deletes the bytes of what has left homes and is nowhere else: they
// would be for nobody, and take the room of images that are cached.
func (r *Registry) dropLeft() (freed layerstore.Freed, err error) {
	left := r.unnamed.takeLeft()
	if len(left) == 0 {
		return freed, nil
	}
	err = r.state.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketHolds).ForEach(func(key, _ []byte) error {
			delete(left, digestOfHold(key))
			return nil
		})
	})
	tops := make([]digest.Digest, 0, len(left))
	for d := range left {
		tops = append(tops, d)
	}
	if err != nil || len(tops) == 0 {
		return freed, err
	}
	for some := range slices.Chunk(tops, leftAtOnce) {
		f, removing := r.store.Remove(some, r.digestsOfTags(nil))
		freed.Blobs, freed.Bytes, err = freed.Blobs+f.Blobs, freed.Bytes+f.Bytes, errors.Join(err, removing)
		for _, d := range some {
			r.manifests.Remove(d)
		}
	}
	r.passages.removed()
	return freed, err
}

// digestOfHold is the digest in a holdKey.
func digestOfHold(key []byte) digest.Digest {
	_, d, _ := bytes.Cut(key, []byte("@"))
	return digest.Digest(d)
}

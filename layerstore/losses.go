package layerstore

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

var bucketLost = []byte("lost")

// Loss is a blob that was sealed, and rotted or vanished.
type Loss struct {
	Digest    digest.Digest `json:"-"`
	Size      int64         `json:"size"` // bytes
	MediaType string        `json:"mediaType,omitempty"`
	At        time.Time     `json:"at"`  // when it was found out
	Why       string        `json:"why"` // what was wrong with it
}

// losses are the blobs that were lost and are not here again, in memory and in
// the index.
type losses struct {
	more chan struct{} // holds a token when there are new ones

	mu  sync.Mutex // guards set
	set map[digest.Digest]Loss
}

// loadLosses reads the losses of earlier processes. One whose blob is here
// again was left by a kill between its sealing and the end of its loss.
func (x *index) loadLosses() (*losses, error) {
	l := &losses{more: make(chan struct{}, 1), set: map[digest.Digest]Loss{}}
	var back []digest.Digest
	err := x.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketLost).ForEach(func(k, v []byte) error {
			loss := Loss{Digest: digest.Digest(k)}
			if err := json.Unmarshal(v, &loss); err != nil {
				return fmt.Errorf("loss of %s: %w", k, err)
			}
			if tx.Bucket(bucketBlobs).Get(k) != nil {
				back = append(back, loss.Digest)
			} else {
				l.set[loss.Digest] = loss
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	if len(l.set) > 0 {
		l.more <- struct{}{}
	}
	return l, x.dropLosses(back)
}

func putLoss(tx *bolt.Tx, loss Loss) error {
	value, err := json.Marshal(loss)
	if err != nil {
		return err
	}
	return tx.Bucket(bucketLost).Put([]byte(loss.Digest), value)
}

func (x *index) dropLosses(digests []digest.Digest) error {
	if len(digests) == 0 {
		return nil
	}
	return x.db.Update(func(tx *bolt.Tx) error {
		for _, d := range digests {
			if err := tx.Bucket(bucketLost).Delete([]byte(d)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (l *losses) add(loss Loss) {
	l.mu.Lock()
	l.set[loss.Digest] = loss
	l.mu.Unlock()
	select {
	case l.more <- struct{}{}:
	default:
	}
}

// drop forgets those of the digests that were lost, and returns them.
func (l *losses) drop(digests ...digest.Digest) (dropped []digest.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.set) == 0 {
		return nil
	}
	for _, d := range digests {
		if _, lost := l.set[d]; lost {
			delete(l.set, d)
			dropped = append(dropped, d)
		}
	}
	return dropped
}

// repaired ends the losses of blobs that were sealed again.
func (s *Store) repaired(rows []sealed) {
	var back []digest.Digest
	for _, r := range rows {
		back = append(back, s.losses.drop(r.digest)...)
	}
	if len(back) == 0 {
		return
	}
	s.counts.repaired.Add(int64(len(back)))
	for _, d := range back {
		s.log.Info("damaged blob is here again", "digest", d)
	}
	if err := s.index.dropLosses(back); err != nil {
		s.log.Warn("end of a loss not recorded", "error", err) // found out at the next Open
	}
}

// Lost lists the blobs that rotted or vanished and did not come back, in the
// order of digests. Whoever knows where they came from may fetch them again,
// which ends the loss; whoever knows that nobody needs them calls [Store.Forget].
func (s *Store) Lost() []Loss {
	s.losses.mu.Lock()
	lost := slices.Collect(maps.Values(s.losses.set))
	s.losses.mu.Unlock()
	slices.SortFunc(lost, func(a, b Loss) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	return lost
}

// Rot holds a token when there are losses that were not there when the last
// token was taken. It is for one reader.
func (s *Store) Rot() <-chan struct{} { return s.losses.more }

// Forget ends the losses of blobs that nobody needs any more.
func (s *Store) Forget(digests ...digest.Digest) error {
	return storageError("forget loss", s.index.dropLosses(s.losses.drop(digests...)))
}

// Integrity counts what was done against rot since Open, but for Lost.
type Integrity struct {
	Scrubbed    int64 // bytes that scrubs read
	Quarantined int64 // blobs taken away
	Repaired    int64 // blobs that came back after they were lost
	Lost        int   // blobs that did not, those of earlier processes included
}

// Integrity tells how the store fares against rot.
func (s *Store) Integrity() Integrity {
	s.losses.mu.Lock()
	lost := len(s.losses.set)
	s.losses.mu.Unlock()
	return Integrity{
		Scrubbed: s.counts.scrubbed.Load(), Quarantined: s.counts.quarantined.Load(),
		Repaired: s.counts.repaired.Load(), Lost: lost,
	}
}

package layerstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// stepBlobs is how many blobs one step takes, but for an image that has more:
// few enough that what waits for the committer, or for one of these blobs,
// waits some ten milliseconds; enough to share the sync of the index.
const stepBlobs = 64

// carryOut does what a plan says, step by step, until ctx ends or the store
// closes. It adds to c what went, and returns how many units stayed because
// something about them has changed.
func (s *Store) carryOut(ctx context.Context, p *plan, c *Collection) (left int, err error) {
	for units := p.units; len(units) > 0; {
		if ctx.Err() != nil {
			return left, context.Cause(ctx)
		}
		if s.ctx.Err() != nil {
			return left, ErrClosed
		}
		n := stepSize(units)
		var gone []*unit
		var t *trash
		var failed error
		closed := s.commit.apart(func() { gone, t, failed = s.step(p, units[:n]) })
		if closed == nil {
			_, err := t.empty()
			failed = errors.Join(failed, storageError("evict", err))
		}
		for _, u := range gone {
			u.made = s.forms().Drop(slices.Concat(u.free, u.away))
			c.add(p.eviction(u))
		}
		if err := errors.Join(closed, failed); err != nil {
			return left, err
		}
		left += n - len(gone)
		units = units[n:]
	}
	return left, nil
}

// stepSize is how many of the units the next step takes.
func stepSize(units []*unit) int {
	blobs := 0
	for i, u := range units {
		if blobs += len(u.free); blobs > stepBlobs && i > 0 {
			return i
		}
	}
	return len(units)
}

// step evicts units: rows in one transaction, names afterwards. Who comes for
// one of their blobs meanwhile waits, and then finds it gone. It runs in the
// committer's goroutine, and leaves it to others to free the space.
func (s *Store) step(p *plan, units []*unit) (gone []*unit, t *trash, err error) {
	var all []digest.Digest
	for _, u := range units {
		all = append(all, u.free...)
	}
	s.inUse.begin(all)
	defer s.inUse.end()
	t = s.newTrash()
	if gone, err = s.dropUnits(p, units); err != nil {
		return nil, t, storageError("evict", err)
	}
	all = all[:0]
	for _, u := range gone {
		all = append(all, u.free...)
		s.counts.evictions.Add(int64(len(u.free)))
		s.counts.evicted.Add(u.size)
		s.log.Info("evicted", "digest", p.digests[u.top], "blobs", len(u.free), "bytes", u.size, "used", u.used, "why", string(u.why))
	}
	t.take(all)
	s.tellEvicted(all)
	return gone, t, nil
}

// dropUnits drops the rows of those units that may go still: roots, leases,
// readers, transfers and parents are looked at again, in the transaction that
// drops them.
func (s *Store) dropUnits(p *plan, units []*unit) (gone []*unit, err error) {
	var size int64
	blobs := 0
	err = s.index.db.Update(func(tx *bolt.Tx) error {
		gone, blobs, size = nil, 0, 0
		now := s.watch(tx, s.inFlight()...)
		for _, u := range units {
			if s.changed(p, u) || !now.spare(u) {
				continue
			}
			bytes, err := dropUnit(tx, u)
			if err != nil {
				return err
			}
			gone, blobs, size = append(gone, u), blobs+len(u.free), size+bytes
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.count(-blobs, -size)
	return gone, nil
}

// dropUnit drops the rows of a unit and gives the bytes of them.
func dropUnit(tx *bolt.Tx, u *unit) (size int64, err error) {
	for _, d := range u.free {
		var r row
		if err := json.Unmarshal(tx.Bucket(bucketBlobs).Get([]byte(d)), &r); err != nil {
			return 0, fmt.Errorf("row of %s: %w", d, err)
		}
		size += r.Size
	}
	return size, dropRows(tx, u.free)
}

// changed reports whether a unit was used since the plan was made.
func (s *Store) changed(p *plan, u *unit) bool {
	return slices.ContainsFunc(u.free, func(d digest.Digest) bool {
		at, ok := s.usage.last(d)
		return ok && at.After(p.at)
	})
}

// spare reports whether nothing holds any of what a unit is to take with it.
// It counts as going from then on.
func (h *holders) spare(u *unit) bool {
	for _, d := range u.free {
		h.going[d] = true
	}
	for _, d := range u.free {
		if h.reading[d] || !h.sealed(d) || h.need(d) {
			for _, d := range u.free {
				delete(h.going, d)
			}
			return false
		}
	}
	return true
}

// inFlight are the digests of the transfers under way.
func (s *Store) inFlight() []digest.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	flying := make([]digest.Digest, 0, len(s.flights))
	for d := range s.flights {
		flying = append(flying, d)
	}
	return flying
}

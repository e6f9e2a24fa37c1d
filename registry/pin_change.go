package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

const (
	// historyMost is how many earlier digests of a pin are remembered: more
	// than anybody rolls back, few enough to be read at a glance.
	historyMost = 20
	// historyKept is how long the history of a reference that is pinned no more
	// is kept: long enough to find out that unpinning was a mistake.
	historyKept = 90 * 24 * time.Hour
)

// pastRow is a digest that a pin had before.
type pastRow struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`
	Platforms []string      `json:"platforms"`
	From      time.Time     `json:"from"`
	Until     time.Time     `json:"until"`
}

// pinChange is one pin as it shall stand from now on.
type pinChange struct {
	key  string
	row  *pinRow    // nil: no pin
	past *[]pastRow // its history; nil: what it has, and the digest that is left
}

// changePinsLocked makes pins stand as given, all of them or none. It returns how
// to change them back. The manifests must be durable.
//
// New roots come first, then all rows in one transaction, then index.json, then
// roots that nobody needs go: a kill at any point leaves the old pins or the new ones,
// and at most roots too many or not yet moved, which alignRoots puts right.
// Who calls it holds pinning. Claims on what is changed are no more.
func (r *Registry) changePinsLocked(changes ...pinChange) (undo []pinChange, err error) {
	before := r.pinRows()
	for i, c := range changes {
		if c.row == nil || before[c.key].Digest == c.row.Digest {
			continue
		}
		if err := r.store.SetRoot(rootOfPin+c.key, c.row.Digest); err != nil {
			return nil, errors.Join(err, r.rootsBack(changes[:i+1], before))
		}
	}
	if undo, err = r.writePins(changes, before); err != nil {
		return nil, errors.Join(fmt.Errorf("write pins: %w", err), r.rootsBack(changes, before))
	}
	r.setPins(changes)
	if err := r.listPins(changes); err != nil {
		return nil, errors.Join(err, r.pinsBack(undo, changes, before))
	}
	for _, c := range changes {
		delete(r.desired.claims, c.key)
		if c.row == nil {
			err = errors.Join(err, r.store.DeleteRoot(rootOfPin+c.key))
		}
	}
	return undo, err
}

// listPins makes index.json tell of changes. Where nothing is promised by
// them it may tell so later: unpinning must work on a full disk.
func (r *Registry) listPins(changes []pinChange) error {
	err := r.list()
	if err == nil {
		return nil
	}
	nudge(r.listed)
	for _, c := range changes {
		if c.row != nil {
			return fmt.Errorf("list pins: %w", err)
		}
	}
	r.log.Error("index.json not written", "error", err)
	return nil
}

// pinsBack puts rows and roots of changes that came to nothing where they were.
func (r *Registry) pinsBack(undo, changes []pinChange, before map[string]pinRow) error {
	_, err := r.writePins(undo, r.pinRows())
	r.setPins(undo)
	return errors.Join(err, r.rootsBack(changes, before))
}

// rootsBack puts the roots of changes that came to nothing where they were.
func (r *Registry) rootsBack(changes []pinChange, before map[string]pinRow) error {
	var failed error
	for _, c := range changes {
		row, had := before[c.key]
		switch {
		case c.row == nil || c.row.Digest == row.Digest:
		case had:
			failed = errors.Join(failed, r.store.SetRoot(rootOfPin+c.key, row.Digest))
		default:
			failed = errors.Join(failed, r.store.DeleteRoot(rootOfPin+c.key))
		}
	}
	return failed
}

// setPins changes what is in memory.
func (r *Registry) setPins(changes []pinChange) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range changes {
		if c.row == nil {
			delete(r.pins, c.key)
			continue
		}
		r.pins[c.key] = *c.row
	}
}

// writePins writes rows and histories in one transaction.
func (r *Registry) writePins(changes []pinChange, before map[string]pinRow) (undo []pinChange, err error) {
	now := r.now()
	err = r.state.db.Update(func(tx *bolt.Tx) error {
		undo = nil
		for _, c := range changes {
			past, err := historyIn(tx, c.key)
			if err != nil {
				return err
			}
			back := pinChange{key: c.key, past: &past}
			if row, had := before[c.key]; had {
				back.row = &row
			}
			undo = append(undo, back)
			if err := writePin(tx, c, back, now); err != nil {
				return err
			}
		}
		return nil
	})
	return undo, err
}

func writePin(tx *bolt.Tx, c, before pinChange, now time.Time) error {
	past := *before.past
	switch {
	case c.past != nil:
		past = *c.past
	case before.row != nil && (c.row == nil || c.row.Digest != before.row.Digest):
		past = withPast(past, *before.row, now)
	}
	if err := putHistory(tx, c.key, past); err != nil {
		return err
	}
	if c.row == nil {
		return tx.Bucket(bucketPins).Delete([]byte(c.key))
	}
	return put(tx, bucketPins, c.key, *c.row)
}

// withPast is a history with one more digest at its end.
func withPast(past []pastRow, row pinRow, until time.Time) []pastRow {
	past = append(slices.Clone(past), pastRow{
		Digest: row.Digest, MediaType: row.MediaType, Size: row.Size, Platforms: row.Platforms, From: row.At, Until: until,
	})
	return past[max(0, len(past)-historyMost):]
}

func putHistory(tx *bolt.Tx, key string, past []pastRow) error {
	if len(past) == 0 {
		return tx.Bucket(bucketHistory).Delete([]byte(key))
	}
	return put(tx, bucketHistory, key, past)
}

func historyIn(tx *bolt.Tx, key string) (past []pastRow, err error) {
	value := tx.Bucket(bucketHistory).Get([]byte(key))
	if value == nil {
		return nil, nil
	}
	if err := json.Unmarshal(value, &past); err != nil {
		return nil, fmt.Errorf("history of %s: %w", key, err)
	}
	return past, nil
}

// history is what a pin was before, oldest first.
func (r *Registry) history(key string) (past []pastRow, err error) {
	err = r.state.db.View(func(tx *bolt.Tx) error {
		past, err = historyIn(tx, key)
		return err
	})
	return past, err
}

// forgetHistory drops histories of references that are long pinned no more.
func (r *Registry) forgetHistory() error {
	rows := r.pinRows()
	var old []string
	err := each(r.state, bucketHistory, func(key string, past []pastRow) error {
		_, pinned := rows[key]
		if !pinned && (len(past) == 0 || r.now().Sub(past[len(past)-1].Until) > historyKept) {
			old = append(old, key)
		}
		return nil
	})
	if err != nil || len(old) == 0 {
		return err
	}
	return r.state.db.Update(func(tx *bolt.Tx) error {
		for _, key := range old {
			if err := tx.Bucket(bucketHistory).Delete([]byte(key)); err != nil {
				return err
			}
		}
		return nil
	})
}

package boltfile

import (
	"fmt"
	"sync"

	bolt "go.etcd.io/bbolt"
)

// group lets changes share a transaction, and so its two syncs: all that come
// while one is being written go into the next. bbolt's own batches wait for
// company instead, which costs a change that is alone that wait, and once the disk is
// slower than the wait gives each few companions.
type group struct {
	mu      sync.Mutex // guards what follows
	waiting []*grouped
	running bool
}

// grouped is one change that waits for its transaction.
type grouped struct {
	change func(*bolt.Tx) error
	done   chan groupedResult
}

// groupedResult is what became of a change. One that failed, or panicked, has to
// run by itself, so that it spoils nobody else's transaction.
type groupedResult struct {
	err   error
	alone bool
}

// do returns when the change is durable. It may run more than once.
func (g *group) do(update func(func(*bolt.Tx) error) error, change func(*bolt.Tx) error) error {
	c := &grouped{change: change, done: make(chan groupedResult, 1)}
	if first := g.join(c); first {
		go g.run(update)
	}
	result := <-c.done
	if result.alone {
		return update(change)
	}
	return result.err
}

// join reports whether nobody writes what waits.
func (g *group) join(c *grouped) (first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = append(g.waiting, c)
	first = !g.running
	g.running = true
	return first
}

// run writes until nothing waits.
func (g *group) run(update func(func(*bolt.Tx) error) error) {
	for batch := g.take(); len(batch) > 0; batch = g.take() {
		writeGroup(update, batch)
	}
}

func (g *group) take() []*grouped {
	g.mu.Lock()
	defer g.mu.Unlock()
	batch := g.waiting
	g.waiting = nil
	g.running = len(batch) > 0
	return batch
}

// writeGroup writes changes in one transaction, without those that fail in it.
func writeGroup(update func(func(*bolt.Tx) error) error, batch []*grouped) {
	for len(batch) > 0 {
		failed := -1
		err := update(func(tx *bolt.Tx) error {
			for i, c := range batch {
				if err := safely(c.change, tx); err != nil {
					failed = i
					return err
				}
			}
			return nil
		})
		if failed < 0 {
			for _, c := range batch {
				c.done <- groupedResult{err: err}
			}
			return
		}
		batch[failed].done <- groupedResult{alone: true}
		batch = append(batch[:failed], batch[failed+1:]...)
	}
}

// safely makes a panic an error: it is to come up where the change came from.
func safely(change func(*bolt.Tx) error, tx *bolt.Tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return change(tx)
}

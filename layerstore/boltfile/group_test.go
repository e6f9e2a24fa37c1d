package boltfile

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	bolt "go.etcd.io/bbolt"
)

func newGroupFile(t *testing.T) *File {
	t.Helper()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "a.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return Over(db)
}

// behind holds the file's write lock until all of n changes wait, and then lets
// them go. It returns their errors.
func behind(t *testing.T, f *File, n int, change func(i int, tx *bolt.Tx) error) []error {
	t.Helper()
	first, release := make(chan struct{}), make(chan struct{})
	errs := make([]error, n)
	var all sync.WaitGroup
	all.Go(func() {
		_ = f.Batch(func(*bolt.Tx) error {
			select {
			case <-first:
			default:
				close(first)
			}
			<-release
			return nil
		})
	})
	<-first
	for i := range n {
		all.Go(func() { errs[i] = f.Batch(func(tx *bolt.Tx) error { return change(i, tx) }) })
	}
	for {
		f.changes.mu.Lock()
		waiting := len(f.changes.waiting)
		f.changes.mu.Unlock()
		if waiting == n {
			break
		}
		runtime.Gosched()
	}
	close(release)
	all.Wait()
	return errs
}

func rowOf(i int, tx *bolt.Tx) error {
	b, err := tx.CreateBucketIfNotExists([]byte("rows"))
	if err != nil {
		return err
	}
	return b.Put(fmt.Appendf(nil, "%d", i), []byte{1})
}

func (f *File) rows(t *testing.T) (n, transactions int) {
	t.Helper()
	err := f.View(func(tx *bolt.Tx) error {
		transactions = tx.ID()
		if b := tx.Bucket([]byte("rows")); b != nil {
			n = b.Stats().KeyN
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n, transactions
}

func TestWhatComesWhileOneIsWrittenSharesATransaction(t *testing.T) {
	f := newGroupFile(t)
	_, before := f.rows(t)
	for _, err := range behind(t, f, 50, rowOf) {
		if err != nil {
			t.Error(err)
		}
	}
	rows, after := f.rows(t)
	if rows != 50 || after-before != 2 { // the one that was waited for, and theirs
		t.Errorf("%d rows in %d transactions", rows, after-before)
	}
}

func TestAChangeThatFailsSpoilsNoOther(t *testing.T) {
	f, refusal := newGroupFile(t), errors.New("refused")
	errs := behind(t, f, 10, func(i int, tx *bolt.Tx) error {
		if err := rowOf(i, tx); err != nil || i%4 != 1 {
			return err
		}
		return refusal
	})
	for i, err := range errs {
		if want := i%4 == 1; errors.Is(err, refusal) != want {
			t.Errorf("change %d: %v", i, err)
		}
	}
	if rows, _ := f.rows(t); rows != 7 {
		t.Errorf("%d rows, 7 changes did not fail", rows)
	}
}

func TestAPanicComesUpWhereTheChangeCameFrom(t *testing.T) {
	f := newGroupFile(t)
	func() {
		defer func() {
			if p := recover(); p != "mine" {
				t.Errorf("recovered %v", p)
			}
		}()
		_ = f.Batch(func(*bolt.Tx) error { panic("mine") })
	}()
	if err := f.Batch(func(tx *bolt.Tx) error { return rowOf(1, tx) }); err != nil {
		t.Error(err)
	}
}

func TestABatchAfterCloseIsRefused(t *testing.T) {
	f := newGroupFile(t)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Batch(func(*bolt.Tx) error { return nil }); err == nil {
		t.Error("no error")
	}
}

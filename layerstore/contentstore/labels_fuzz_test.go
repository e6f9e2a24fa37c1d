package contentstore

import (
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/boltfile"
)

// Whatever stands in a row of labels is refused at the start, and the file made
// anew; or it can be used, and is written as it was read.
func FuzzLabelsRow(f *testing.F) {
	l, err := openLabels(filepath.Join(f.TempDir(), "labels.db"), slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	l.db.NoSync = true // it has to survive nothing
	f.Cleanup(func() { l.db.Close() })
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if len(key) == 0 || len(key) > bolt.MaxKeySize {
			t.Skip("bolt has no such key")
		}
		if !l.plant(t, key, value) {
			return
		}
		d := digest.Digest(key) // or no digest at all: that no blob has, and New forgets it
		if known, err := l.all(); err != nil || len(known) != 1 || known[0] != d {
			t.Fatalf("labels of %v, %v", known, err)
		}
		r, err := l.get(d)
		if err != nil {
			t.Fatalf("accepted, and then: %v", err)
		}
		_, err = l.change(d, r.Updated, func(labels map[string]string) map[string]string { return labels })
		if err != nil {
			t.Fatal(err)
		}
		if again, err := l.get(d); err != nil || !maps.Equal(again.Labels, r.Labels) || !again.Updated.Equal(r.Updated) {
			t.Fatalf("read %+v, and when that was written %+v, %v", r, again, err)
		}
		if err := l.drop(d); err != nil {
			t.Fatal(err)
		}
		if known, err := l.all(); err != nil || len(known) != 0 {
			t.Fatalf("dropped, and there is still %v, %v", known, err)
		}
	})
}

// plant makes a row the only one, and reports whether a start would go on with it.
func (l *labels) plant(t *testing.T, key, value []byte) (accepted bool) {
	t.Helper()
	err := l.db.Update(func(tx *bolt.Tx) error {
		if err := tx.DeleteBucket(bucketBlobs); err != nil {
			return err
		}
		rows, err := tx.CreateBucket(bucketBlobs)
		if err != nil {
			return err
		}
		return rows.Put(key, value)
	})
	if err != nil {
		t.Fatal(err)
	}
	err = l.db.Update(prepare)
	if err != nil && !errors.As(err, new(*boltfile.Damage)) && !errors.Is(err, layerstore.ErrNewer) {
		t.Fatalf("refused with %v, for which nothing is made anew", err)
	}
	return err == nil
}

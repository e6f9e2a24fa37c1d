package boltfile

import (
	"errors"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
)

func TestSchemaIsCheckedAndBroughtUp(t *testing.T) {
	db, err := bolt.Open(filepath.Join(t.TempDir(), "db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	newer, key := errors.New("newer"), []byte("schema")
	for _, c := range []struct {
		found         string
		want          string
		newer, damage bool
	}{{"", "2", false, false}, {"1", "2", false, false}, {"2", "2", false, false}, {"3", "3", true, false}, {"x", "x", false, true}} {
		err := db.Update(func(tx *bolt.Tx) error {
			meta, err := tx.CreateBucketIfNotExists([]byte("meta"))
			if err != nil {
				return err
			}
			if c.found != "" {
				err = meta.Put(key, []byte(c.found))
			}
			serr := Schema(meta, key, 2, newer)
			if got := string(meta.Get(key)); got != c.want {
				t.Errorf("%q became %q, want %q", c.found, got, c.want)
			}
			if errors.Is(serr, newer) != c.newer || errors.As(serr, new(*Damage)) != c.damage {
				t.Errorf("%q: %v", c.found, serr)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

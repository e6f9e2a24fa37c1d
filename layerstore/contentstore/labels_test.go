package contentstore_test

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/contentstore"
)

// spoil puts a value into a file of labels, which is made where there is none.
func spoil(t *testing.T, path, bucket, key, value string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	must(t, err)
	must(t, db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(bucket))
		if err != nil {
			return err
		}
		return b.Put([]byte(key), []byte(value))
	}))
	must(t, db.Close())
}

func TestNewerLabelsAreRefused(t *testing.T) {
	h := opened(t, t.TempDir())
	path := filepath.Join(t.TempDir(), "labels.db")
	spoil(t, path, "meta", "schema", "2")
	if _, err := contentstore.New(h.blobs, contentstore.Options{Path: path}); !errors.Is(err, layerstore.ErrNewer) {
		t.Errorf("error %v", err)
	}
	if _, err := contentstore.New(h.blobs, contentstore.Options{}); !errors.Is(err, layerstore.ErrLocked) {
		t.Errorf("second adapter: %v", err)
	}
}

func TestDamagedLabelsAreSetAside(t *testing.T) {
	for _, c := range [][3]string{{"meta", "schema", "one"}, {"blobs", "sha256:0", "not JSON"}} {
		h := opened(t, t.TempDir())
		b := []byte("labelled")
		d := h.commit(t, b, content.WithLabels(map[string]string{"k": "v"}))
		must(t, h.Store.Close())
		spoil(t, filepath.Join(h.blobs.Root(), "contentstore.db"), c[0], c[1], c[2])
		again, err := contentstore.New(h.blobs, contentstore.Options{})
		must(t, err)
		h.Store = again
		h.wantBytes(t, b)
		wantNoLabels(t, h, d)
	}
}

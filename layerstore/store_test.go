package layerstore_test

import (
	"testing"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/layerstore/storetest"
)

func open(t *testing.T, o layerstore.Options) *layerstore.Store {
	t.Helper()
	s, err := layerstore.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T, root string) storetest.Store {
		return open(t, layerstore.Options{Root: root})
	})
}

package layerstore_test

import (
	"log/slog"
	"os"
	"sync"
	"testing"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// A start that lost its index and then cannot read the blobs, for want of
// descriptors, must not take them for rubbish: the next start reads them.
func TestStartThatCannotReadBlobsLeavesThemAlone(t *testing.T) {
	alone(t, func(t *testing.T) {
		s := newShelf(t)
		must(t, os.Remove(s.index()))
		var log logged
		var undo func()
		starve := sync.OnceFunc(func() { undo = limit(t, unix.RLIMIT_NOFILE, 3) })
		store, err := layerstore.Open(layerstore.Options{
			Root: s.root, Log: slog.New(slog.NewTextHandler(&log, nil)),
			Describe: func(content []byte) (string, []digest.Digest, bool) {
				starve() // in the middle of it: a few files are read, or are open
				return describeAlbum(content)
			},
		})
		undo()
		must(t, err)
		stats, err := store.Stats()
		must(t, err)
		left := log.count("cannot be read and is left alone")
		if all := len(s.blobs) + 1; left == 0 || stats.Blobs == 0 || int(stats.Blobs)+left != all {
			t.Errorf("%d blobs were taken in and %d left alone, of %d:\n%s", stats.Blobs, left, all, log.text.String())
		}
		for _, content := range append(s.blobs, s.album) {
			if !exists(t, blobPath(s.root, digest.FromBytes(content))) {
				t.Errorf("%q was removed", content)
			}
		}
		must(t, store.Close())
		again := s.open(t)
		defer again.Close()
		s.wantWhole(t, again)
	})
}

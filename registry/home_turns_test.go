package registry

import (
	"sync"
	"testing"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// TestATagThatManyPushAndDeleteIsWhatItIsAfterARestart: rows in memory and on
// disk are changed in the same order, or a tag that was deleted comes back.
func TestATagThatManyPushAndDeleteIsWhatItIsAfterARestart(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	ref := reference(t, "local/app:v1")
	for _, layer := range []string{"one", "two"} {
		c.mustPush("local/app:"+layer, layer)
	}
	for range 100 {
		var changes sync.WaitGroup
		for _, layer := range []string{"one", "two", "one", "two"} {
			changes.Go(func() {
				if _, err := c.pushImage("local/app:v1", layer); err != nil {
					t.Error(err)
				}
			})
			changes.Go(func() { _ = c.DeleteTag(t.Context(), ref) }) // there may be none just then
		}
		changes.Wait()
		written, err := c.state.tag(ref.String())
		if err != nil {
			t.Fatal(err)
		}
		if now, _ := c.tagged(ref.String()); now.row.Digest != written.Digest {
			t.Fatalf("the tag means %q, and after a restart %q", now.row.Digest, written.Digest)
		}
	}
}

package registry

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry/registrytest"
)

// A tag that cannot be kept is answered all the same, and kept when it can be,
// though nobody asks upstream again.
func TestTagThatCannotBeKeptIsAnsweredAndKeptLater(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("layer"))
	c := newCache(t, up, nil)
	ingest := filepath.Join(c.root, "ingest")
	if err := os.Rename(ingest, ingest+"-away"); err != nil {
		t.Fatal(err)
	}
	c.expect(ref, image.Digest, OutcomeMiss)
	eventually(t, func() bool { return c.unkept.waiting() > 0 })
	up.Stop()
	c.expect(ref, image.Digest, OutcomeHit)
	if err := os.Rename(ingest+"-away", ingest); err != nil {
		t.Fatal(err)
	}
	c.settled(image.Digest)
	eventually(t, func() bool { return c.hasTagRow(ref) })
	c.restart()
	c.expect(ref, image.Digest, OutcomeHit)
}

func (u *unkept) waiting() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.bytes
}

func (c *cache) hasTagRow(key string) (has bool) {
	err := each(c.state, bucketTags, func(k string, _ tagRow) error {
		has = has || k == key
		return nil
	})
	if err != nil {
		c.t.Error(err)
	}
	return has
}

func TestUnkeptIsBounded(t *testing.T) {
	u := unkept{some: make(chan struct{}, 1)}
	nothing := func() error { return nil }
	u.add("one", unkeptMost, nothing)
	u.add("two", 1, nothing)
	u.add("one", 1, nothing) // in place of the large one
	u.add("three", 1, nothing)
	if taken := u.take(); len(taken) != 2 || u.bytes != 0 {
		t.Errorf("%d wait, %d bytes are counted", len(taken), u.bytes)
	}
}

// A blob that the store cannot keep is answered as a bypass and counted.
func TestBlobPastTheStoreIsABypass(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	layer := []byte("a layer that is not kept")
	up.AddImage("team/app", "v1", layer)
	c := newCache(t, up, nil)
	d := digest.FromBytes(layer)
	if err := os.MkdirAll(filepath.Join(c.root, "ingest", "sha256-"+d.Encoded()+".part", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	b, a, err := c.Blob(t.Context(), Repository{Registry: "registry.test", Path: "team/app"}, d)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if a.Outcome != OutcomeBypass || a.Stored {
		t.Errorf("answer %+v", a)
	}
	if s := c.Status(t.Context()); s.Bypassed != 1 || s.Gets != 1 {
		t.Errorf("status %+v", s)
	}
	// What was pulled for keeps is not: that is said.
	err = c.store.Ensure(t.Context(), specs.Descriptor{Digest: d}, nil, nil)
	if err == nil || b.Outcome() != layerstore.Bypass {
		t.Errorf("ensure: %v, outcome %v", err, b.Outcome())
	}
}

package registry

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/imagecache/imagecache/registry/registrytest"
	"github.com/opencontainers/go-digest"
)

// when is the moment at which the rows of a tag, its image and its layer were
// written, the latest of them, after the first moment of the test.
func (c *cache) when(ref, layer string, since time.Time) time.Duration {
	c.t.Helper()
	to := reference(c.t, ref)
	tag, err := c.state.tag(ref)
	at := tag.Checked.Unix()
	for _, d := range []digest.Digest{tag.Digest, digest.FromString(layer)} {
		row, rerr := (&home{c.Registry}).row(to.Repository, d)
		at, err = max(at, row.At), errors.Join(err, rerr)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return time.Unix(at, 0).Sub(since)
}

func (c *cache) mustPush(ref, layer string) digest.Digest {
	c.t.Helper()
	d, err := c.pushImage(ref, layer)
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

func TestAPushOfWhatIsThereWritesNothing(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	began := c.clock.now()
	for _, step := range []struct {
		what    string
		ref     string
		at      time.Duration
		written time.Duration // when the rows were
	}{
		{"new", "local/app:v1", 0, 0},
		{"again", "local/app:v1", time.Minute, 0},
		{"another tag", "local/app:v2", 2 * time.Minute, 2 * time.Minute},
		{"again, under the first", "local/app:v1", 3 * time.Minute, 2 * time.Minute},
		{"another repository", "local/other:v1", 4 * time.Minute, 4 * time.Minute},
		{"again, much later", "local/app:v1", 3 * time.Hour, 3 * time.Hour},
	} {
		c.clock.advance(step.at - c.clock.now().Sub(began))
		c.mustPush(step.ref, "layer")
		if at := c.when(step.ref, "layer", began); at != step.written {
			t.Errorf("%s: rows were written after %s, want %s", step.what, at, step.written)
		}
	}
}

func TestATagThatMovedBackIsWritten(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	first := c.mustPush("local/app:v1", "one")
	c.mustPush("local/app:v1", "two")
	c.mustPush("local/app:v1", "one")
	if row, err := c.state.tag("local/app:v1"); err != nil || row.Digest != first {
		t.Errorf("the tag means %s, %v", row.Digest, err)
	}
}

func TestABlobThatIsPushedAgainIsKeptForAnotherDay(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	d := c.pushBlob(atHome, "alone").Digest
	c.clock.advance(unnamedKept - time.Minute)
	c.pushBlob(atHome, "alone")
	c.sweepUnnamed(false)
	c.clock.advance(toldFor)
	c.sweepUnnamed(false)
	if _, _, err := c.BlobInfo(t.Context(), atHome, d); err != nil {
		t.Error("it is let go", err)
	}
}

// Many pushes at once share transactions.
func TestPushesThatMeetAllCount(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	var pushes sync.WaitGroup
	for i := range 20 {
		pushes.Go(func() {
			if _, err := c.pushImage(fmt.Sprintf("local/app:v%02d", i), fmt.Sprint("layer ", i)); err != nil {
				t.Error(err)
			}
		})
	}
	pushes.Wait()
	tags, _, err := c.Tags(t.Context(), atHome)
	if err != nil || len(tags) != 20 || !slices.IsSorted(tags) {
		t.Errorf("tags %v, %v", tags, err)
	}
	for i := range 20 {
		if row, err := c.state.tag(fmt.Sprintf("local/app:v%02d", i)); err != nil || row.Digest == "" {
			t.Errorf("tag %d: %+v, %v", i, row, err)
		}
	}
}

func TestTagsAreThoseOfTheRepositoryAlone(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	for _, ref := range []string{"local/app:b", "local/app:a", "local/app:B", "local/app2:c", "local/app/x:d", "local/ap:e"} {
		c.mustPush(ref, "layer")
	}
	if tags, _, err := c.Tags(t.Context(), atHome); err != nil || !slices.Equal(tags, []string{"B", "a", "b"}) {
		t.Errorf("tags %v, %v", tags, err)
	}
	c.pushBlob(Repository{Registry: LocalHome, Path: "blobs"}, "alone")
	if tags, _, err := c.Tags(t.Context(), Repository{Registry: LocalHome, Path: "blobs"}); err != nil || tags == nil || len(tags) != 0 {
		t.Errorf("tags %v, %v", tags, err)
	}
	_, _, err := c.Tags(t.Context(), Repository{Registry: LocalHome, Path: "none"})
	wantCode(t, err, CodeNameUnknown)
}

func TestALargeIndexIsWrittenLessOften(t *testing.T) {
	if pauseAfter(time.Millisecond) != indexPause || pauseAfter(10*time.Second) != 200*time.Second {
		t.Error(pauseAfter(time.Millisecond), pauseAfter(10*time.Second))
	}
}

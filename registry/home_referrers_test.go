package registry

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// notPushedYet is a subject that comes later, or never.
func notPushedYet(name string) specs.Descriptor {
	return specs.Descriptor{MediaType: specs.MediaTypeImageManifest, Digest: digest.FromString(name), Size: 5}
}

// pushReferrer pushes an artifact without layers that refers to something.
func (c *cache) pushReferrer(of specs.Descriptor, artifactType, note string) digest.Digest {
	c.t.Helper()
	m := specs.Manifest{MediaType: specs.MediaTypeImageManifest, ArtifactType: artifactType, Config: c.pushBlob(atHome, "{}"), Layers: []specs.Descriptor{},
		Subject: &of, Annotations: map[string]string{"note": note}}
	m.SchemaVersion = 2
	content, err := json.Marshal(m)
	if err != nil {
		c.t.Fatal(err)
	}
	d := digest.FromBytes(content)
	if _, err := c.PutManifest(c.t.Context(), Reference{Repository: atHome, Digest: d}, m.MediaType, content); err != nil {
		c.t.Fatal(err)
	}
	return d
}

// pages asks for all referrers, page by page, and tells how many pages it took.
func (c *cache) pages(of digest.Digest, artifactType string) (all []digest.Digest, pages int) {
	c.t.Helper()
	q := ReferrersQuery{ArtifactType: artifactType}
	for {
		page, _, err := c.Referrers(c.t.Context(), atHome, of, q)
		if err != nil {
			c.t.Fatal(err)
		}
		if encoded, err := json.Marshal(page.Manifests); err != nil || len(encoded) > 4<<20 || page.Manifests == nil {
			c.t.Fatalf("a page of %d bytes, %v", len(encoded), err)
		}
		for _, d := range page.Manifests {
			all = append(all, d.Digest)
		}
		pages++
		if page.Next == "" {
			return all, pages
		}
		q.After = page.Next
	}
}

// TestManyReferrersComeByPages: each once, whatever they have for annotations.
func TestManyReferrersComeByPages(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	of := notPushedYet("subject")
	long := strings.Repeat("x", 800_000)
	byType := map[string][]digest.Digest{}
	for i := range 9 {
		kind := fmt.Sprintf("a/%d", i%2)
		d := c.pushReferrer(of, kind, fmt.Sprint(i, long))
		byType[kind], byType[""] = append(byType[kind], d), append(byType[""], d)
	}
	c.pushReferrer(notPushedYet("another"), "a/0", "of another subject")
	for kind, want := range byType {
		slices.Sort(want)
		got, pages := c.pages(of.Digest, kind)
		if !slices.Equal(got, want) || pages != (len(want)+2)/3 {
			t.Errorf("%q: %d on %d pages, want %d", kind, len(got), pages, len(want))
		}
	}
	if got, pages := c.pages(of.Digest, "a/9"); len(got) != 0 || pages != 1 {
		t.Errorf("of a type that none has: %q on %d pages", got, pages)
	}
}

// TestUpstreamsReferrersAreCutToPages: what upstream lists is held wholly.
func TestUpstreamsReferrersAreCutToPages(t *testing.T) {
	var list []specs.Descriptor
	for i := range 5 {
		list = append(list, specs.Descriptor{Digest: digest.FromString(fmt.Sprint(i)), ArtifactType: "a/b", Annotations: map[string]string{"x": strings.Repeat("x", 1_400_000)}})
	}
	small := []specs.Descriptor{{Digest: "sha256:b"}, {Digest: "sha256:a", ArtifactType: "a/b"}}
	if got := (ReferrersQuery{}).cut(small); got.Next != "" || len(got.Manifests) != 2 || got.Manifests[0].Digest != "sha256:b" {
		t.Errorf("%+v", got)
	}
	if got := (ReferrersQuery{ArtifactType: "a/b"}).cut(small); len(got.Manifests) != 1 || len(small) != 2 {
		t.Errorf("%+v", got)
	}
	if got := (ReferrersQuery{}).cut(nil); got.Manifests == nil {
		t.Error("nil, which is null in JSON")
	}
	seen := map[digest.Digest]bool{}
	q, pages := ReferrersQuery{}, 0
	for ; pages == 0 || q.After != ""; pages++ {
		page := q.cut(list)
		for _, d := range page.Manifests {
			seen[d.Digest] = true
		}
		q.After = page.Next
	}
	if len(seen) != 5 || pages != 3 {
		t.Errorf("%d on %d pages", len(seen), pages)
	}
}

// TestReferrersAreFoundAgain: by a store that was written before there were rows
// of them, and in which what they are of was deleted meanwhile.
func TestReferrersAreFoundAgain(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	of := notPushedYet("subject")
	kept, gone := c.pushReferrer(of, "a/kept", "1"), c.pushReferrer(of, "a/gone", "2")
	err := c.state.db.Update(func(tx *bolt.Tx) error {
		key := string(holdKey(atHome, kept))
		old := homeRow{MediaType: specs.MediaTypeImageManifest, Size: 5, Subject: of.Digest}
		if err := put(tx, bucketHome, key, old); err != nil {
			return err
		}
		if err := tx.Bucket(bucketHome).Delete(holdKey(atHome, gone)); err != nil {
			return err
		}
		return tx.Bucket(bucketReferrers).Delete(referrerKey(key, of.Digest))
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := c.pages(of.Digest, ""); slices.Contains(got, kept) {
		t.Fatal("its row is still there")
	}
	for range 2 { // and stay as they are
		if err := c.alignHome(); err != nil {
			t.Fatal(err)
		}
		for kind, want := range map[string][]digest.Digest{"": {kept}, "a/kept": {kept}, "a/gone": nil} {
			if got, _ := c.pages(of.Digest, kind); !slices.Equal(got, want) {
				t.Errorf("%q: %q, want %q", kind, got, want)
			}
		}
	}
}

func TestAReferrerGoesAloneAndStaysWithoutItsSubject(t *testing.T) {
	c := newCache(t, registrytest.New(t, registrytest.Options{}), nil)
	image, err := c.pushImage("local/app:v1", "a layer")
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.local(image)
	if err != nil {
		t.Fatal(err)
	}
	first, second := c.pushReferrer(m.Descriptor, "a/b", "1"), c.pushReferrer(m.Descriptor, "a/b", "2")
	if err := c.DeleteManifest(t.Context(), atHome, image); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteManifest(t.Context(), atHome, first); err != nil {
		t.Fatal(err)
	}
	if got, _ := c.pages(image, ""); !slices.Equal(got, []digest.Digest{second}) {
		t.Errorf("%q, want %s", got, second)
	}
}

// BenchmarkReferrersBesideMany asks for the referrers of what has none, in a
// repository with many rows of other things.
func BenchmarkReferrersBesideMany(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c := newCache(b, registrytest.New(b, registrytest.Options{}), nil)
			err := c.state.db.Update(func(tx *bolt.Tx) error {
				for i := range n {
					d := digest.FromString(fmt.Sprint(i))
					if err := put(tx, bucketHome, string(holdKey(atHome, d)), homeRow{Size: 1, Subject: digest.FromString("other")}); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
			of := digest.FromString("subject")
			for b.Loop() {
				if _, _, err := c.Referrers(b.Context(), atHome, of, ReferrersQuery{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

package layerstore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/opencontainers/go-digest"
)

// town is the closed store of 10,000 blobs: 1,000 images, each with a layer of
// its own for every seven, and one that it shares with nine others.
func town(b *testing.B) (root string) {
	b.Helper()
	root = b.TempDir()
	s, err := layerstore.Open(layerstore.Options{Root: root})
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	images := map[digest.Digest][]digest.Digest{}
	for i := range 1000 {
		var layers []digest.Digest
		for l := range 8 {
			layers = append(layers, lay(b, root, fmt.Sprint("image ", i, " layer ", l)))
		}
		layers = append(layers, lay(b, root, fmt.Sprint("base ", i/10)))
		images[lay(b, root, fmt.Sprint("image ", i))] = layers
	}
	for i := range 900 {
		lay(b, root, fmt.Sprint("alone ", i))
	}
	s, err = layerstore.Open(layerstore.Options{Root: root}) // gives them rows
	if err != nil {
		b.Fatal(err)
	}
	for top, layers := range images {
		if err := s.SetRefs(top, layers); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	return root
}

// lay lays a file where a sealed blob would be.
func lay(b *testing.B, root, name string) digest.Digest {
	content := []byte(name)
	d := digest.FromBytes(content)
	if err := os.WriteFile(filepath.Join(root, "blobs", "sha256", d.Encoded()), content, 0o600); err != nil {
		b.Fatal(err)
	}
	return d
}

// BenchmarkPlan is the plan of a collection among 10,000 blobs, half of which go.
func BenchmarkPlan(b *testing.B) {
	later := func() time.Time { return time.Now().Add(time.Hour) } // nothing was just used
	s, err := layerstore.Open(layerstore.Options{Root: town(b), Now: later})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	st, err := s.Stats()
	if err != nil || st.Blobs != 10000 {
		b.Fatal(st.Blobs, err)
	}
	b.ReportAllocs()
	for b.Loop() {
		c, err := s.Collect(b.Context(), layerstore.CollectOptions{DryRun: true, Need: st.Bytes / 2})
		if err != nil || c.Short > 0 || len(c.Gone) == 0 {
			b.Fatal(c, err)
		}
	}
}

// BenchmarkOpen is the start with 10,000 blobs.
func BenchmarkOpen(b *testing.B) {
	root := town(b)
	for b.Loop() {
		s, err := layerstore.Open(layerstore.Options{Root: root})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkEvict is a collection that takes half of 10,000 blobs.
func BenchmarkEvict(b *testing.B) {
	root := town(b)
	later := func() time.Time { return time.Now().Add(time.Hour) }
	for b.Loop() {
		b.StopTimer()
		copied := filepath.Join(b.TempDir(), "copy")
		if err := os.CopyFS(copied, os.DirFS(root)); err != nil {
			b.Fatal(err)
		}
		s, err := layerstore.Open(layerstore.Options{Root: copied, Now: later})
		if err != nil {
			b.Fatal(err)
		}
		st, err := s.Stats()
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		c, err := s.Collect(b.Context(), layerstore.CollectOptions{Need: st.Bytes / 2})
		b.StopTimer()
		if err != nil || c.Short > 0 || c.Blobs < 4000 {
			b.Fatal(c.Blobs, c.Short, err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkDeleteOfWhatIsNeeded is what it costs to find out that one of 10,000
// blobs has to stay.
func BenchmarkDeleteOfWhatIsNeeded(b *testing.B) {
	s, err := layerstore.Open(layerstore.Options{Root: town(b)})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	needed := digest.FromString("image 500 layer 3")
	for b.Loop() {
		if err := s.Delete(needed); !errors.Is(err, layerstore.ErrNeeded) {
			b.Fatal(err)
		}
	}
}

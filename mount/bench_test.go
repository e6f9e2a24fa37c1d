package mount_test

import (
	"fmt"
	"testing"
)

// What a container of an image of 20 layers costs here: one Prepare, with its
// row made durable, and one Mounts.
func BenchmarkPrepareAndMountsOf20Layers(b *testing.B) {
	for _, kind := range kinds {
		b.Run(kind, func(b *testing.B) {
			r := newRoom(b, kind)
			layers := make([][]file, 20)
			for i := range layers {
				layers[i] = []file{{fmt.Sprintf("file-%d", i), "content"}}
			}
			top := r.takeAll(r.shelf.put(b, "app", layers...))
			for i := 0; b.Loop(); i++ {
				key := fmt.Sprintf("container-%d", i)
				if _, err := r.Prepare(b.Context(), key, top); err != nil {
					b.Fatal(err)
				}
				if _, err := r.Mounts(b.Context(), key); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What containerd asks for one layer that is here: Prepare, and the look-up
// of what it was told is there.
func BenchmarkTakeALayer(b *testing.B) {
	r := newRoom(b, kinds[0])
	chain := r.shelf.put(b, "app", threeLayers[0])[0]
	for i := 0; b.Loop(); i++ {
		name, _ := r.take(b.Context(), fmt.Sprintf("extract-%d", i), chain, "")
		if err := r.Remove(b.Context(), name); err != nil {
			b.Fatal(err)
		}
	}
}

package layerstore

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// Held runs f while an ingest is busy.
func Held(i *Ingest, f func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f()
}

func FuzzDecodeIngestHeader(f *testing.F) {
	whole, err := json.Marshal(ingestHeader{
		Name: "layer", Total: 100, Expected: digest.FromString("x"), Started: time.Unix(1, 2), Synced: 7, State: []byte("state"),
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte(`{"name":"x","synced":-1}`))
	f.Add([]byte(`{"name":"x","expected":"sha256:../../x"}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		h, err := decodeIngestHeader(content)
		if err != nil {
			return
		}
		if !h.algorithm().Available() {
			t.Fatalf("hashes by %q", h.algorithm())
		}
		if n := h.usable(1000); n < 0 || n > 1000 {
			t.Fatalf("%d of 1000 bytes are usable", n)
		}
		_, _ = restoreHash(h.algorithm(), h.State) // must not panic
	})
}

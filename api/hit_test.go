package api

import (
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// hit is a request for what a house has. It may cost as many allocations as
// most, its access line included; what net/http adds is not among them.
type hit struct {
	method, url string
	most        float64
}

func hits(tb testing.TB, h *house) map[string]hit {
	tb.Helper()
	layer := noise(1 << 20)
	image := h.upstream.AddImage("app", "v1", layer)
	blob := "blobs/" + digest.FromBytes(layer).String()
	get(tb, "GET", h.url("manifests/v1"))
	get(tb, "GET", h.url(blob))
	return map[string]hit{
		"tag":       {"GET", h.url("manifests/v1"), 14},
		"tag-head":  {"HEAD", h.url("manifests/v1"), 15},
		"digest":    {"GET", h.url("manifests/" + image.Digest.String()), 13},
		"blob":      {"GET", h.url(blob), 34},
		"blob-head": {"HEAD", h.url(blob), 25},
	}
}

// servedBy makes a function that is one hit.
func (h hit) servedBy(tb testing.TB, mirror http.Handler) func() {
	tb.Helper()
	r, err := http.NewRequest(h.method, h.url, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return func() { mirror.ServeHTTP(kernel{quiet{http.Header{}}}, r) }
}

// kernel is quiet that takes what it is sent as sendfile(2) would: without
// reading it into memory.
type kernel struct{ quiet }

func (kernel) ReadFrom(src io.Reader) (int64, error) { return src.(*io.LimitedReader).N, nil }

// withAccessLog is the house's mirror as the daemon runs it.
func (h *house) withAccessLog() http.Handler {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	return New(Options{Registry: h.server.registry, Log: log, AccessLog: log}).Mirror()
}

func TestHitAllocatesLittle(t *testing.T) {
	h := newHouse(t, registrytest.Options{})
	mirror := h.withAccessLog()
	for name, hit := range hits(t, h) {
		serve, least := hit.servedBy(t, mirror), math.Inf(1)
		for range 5 { // what goes on beside is counted, too
			least = min(least, testing.AllocsPerRun(500, serve))
		}
		if least > hit.most {
			t.Errorf("%s: %v allocations, want at most %v", name, least, hit.most)
		}
	}
}

// A hit writes to neither database: while there are thousands of hits, and
// nothing else is left to be written, both stay as they are.
func TestHitWritesNothing(t *testing.T) {
	h := newHouse(t, registrytest.Options{})
	all, mirror := hits(t, h), h.withAccessLog()
	written := func() (sum string) {
		for _, name := range []string{"registry.db", "root/layerstore.db"} {
			b, err := os.ReadFile(filepath.Join(h.folder, name))
			if err != nil {
				t.Fatal(err)
			}
			sum += digest.FromBytes(b).String()
		}
		return sum
	}
	for until := time.Now().Add(30 * time.Second); ; {
		before := written()
		for _, hit := range all {
			serve := hit.servedBy(t, mirror)
			for range 1000 { // which takes longer than a bolt batch waits for company
				serve()
			}
		}
		if written() == before {
			return
		}
		if time.Now().After(until) {
			t.Fatal("the databases never stayed as they were")
		}
	}
}

func BenchmarkHit(b *testing.B) {
	h := newHouse(b, registrytest.Options{})
	mirror := h.withAccessLog()
	for name, hit := range hits(b, h) {
		b.Run(name, func(b *testing.B) {
			serve := hit.servedBy(b, mirror)
			b.ReportAllocs()
			for b.Loop() {
				serve()
			}
		})
	}
}

package api

import (
	"io"
	"log/slog"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// hits are requests for what a house has, on a real registry and store. Most
// is how many allocations one may cost, its access line included: of these
// net/http adds its own.
func hits(tb testing.TB, h *house) map[string]hit {
	tb.Helper()
	layer := noise(1 << 20)
	image := h.upstream.AddImage("app", "v1", layer)
	blob := "blobs/" + digest.FromBytes(layer).String()
	get(tb, "GET", h.url("manifests/v1"))
	get(tb, "GET", h.url(blob))
	return map[string]hit{
		"tag":       {"GET", h.url("manifests/v1"), 100},
		"tag-head":  {"HEAD", h.url("manifests/v1"), 100},
		"digest":    {"GET", h.url("manifests/" + image.Digest.String()), 100},
		"blob":      {"GET", h.url(blob), 100},
		"blob-head": {"HEAD", h.url(blob), 100},
	}
}

type hit struct {
	method, url string
	most        float64
}

// request makes one that is served again and again.
func (h hit) request(tb testing.TB) *http.Request {
	tb.Helper()
	r, err := http.NewRequest(h.method, h.url, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return r
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
		r := hit.request(t)
		got := testing.AllocsPerRun(100, func() { mirror.ServeHTTP(kernel{quiet{http.Header{}}}, r) })
		if got > hit.most {
			t.Errorf("%s: %v allocations, want at most %v", name, got, hit.most)
		}
	}
}

func BenchmarkHit(b *testing.B) {
	h := newHouse(b, registrytest.Options{})
	mirror := h.withAccessLog()
	for name, hit := range hits(b, h) {
		b.Run(name, func(b *testing.B) {
			r := hit.request(b)
			b.ReportAllocs()
			for b.Loop() {
				mirror.ServeHTTP(kernel{quiet{http.Header{}}}, r)
			}
		})
	}
}

package api

import (
	"io"
	"log/slog"
	"net/http"
	"testing"
	"time"
)

// BenchmarkWarm is a warm answer over a real connection on the loopback,
// client included; "handler" is our part of it alone, with an access line.
func BenchmarkWarm(b *testing.B) {
	s := newShelf(b)
	manifest := s.manifest("latest", string(noise(1500)))
	small, large := s.put(b, noise(16<<10)), s.put(b, noise(64<<20))
	server, url := s.serve(b, Options{})
	for _, c := range []struct {
		name, path string
		size       int64
	}{
		{"tag", "/v2/library/nginx/manifests/latest?ns=docker.io", 1500},
		{"digest", "/v2/library/nginx/manifests/" + manifest.String() + "?ns=docker.io", 1500},
		{"blob-16k", "/v2/library/nginx/blobs/" + small.String() + "?ns=docker.io", 16 << 10},
		{"blob-64M", "/v2/library/nginx/blobs/" + large.String() + "?ns=docker.io", 64 << 20},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(c.size)
			b.ReportAllocs()
			for b.Loop() {
				answer, err := http.Get(url + c.path)
				if err != nil {
					b.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, answer.Body); n != c.size {
					b.Fatal(n, err)
				}
				answer.Body.Close()
			}
		})
	}
	logged := New(Options{Registry: s, AccessLog: slog.New(slog.NewTextHandler(io.Discard, nil))})
	for name, mirror := range map[string]http.Handler{"handler": server.Mirror(), "handler-logged": logged.Mirror()} {
		b.Run(name, func(b *testing.B) {
			r, _ := http.NewRequest("GET", "/v2/library/nginx/manifests/latest?ns=docker.io", nil)
			b.ReportAllocs()
			for b.Loop() {
				mirror.ServeHTTP(quiet{http.Header{}}, r)
			}
		})
	}
}

// quiet is discard with the deadlines of a connection.
type quiet struct{ header http.Header }

func (q quiet) Header() http.Header              { return q.header }
func (quiet) WriteHeader(int)                    {}
func (quiet) Write(p []byte) (int, error)        { return len(p), nil }
func (quiet) SetWriteDeadline(_ time.Time) error { return nil }

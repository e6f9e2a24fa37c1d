package api

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry"
)

// shelf stands for the registry where a test must decide what it answers: to
// lie, to cut, to stall. Its blobs go through a real store.
type shelf struct {
	Home     // nothing is pushed to it
	Archives // nor imported
	store    *layerstore.Store

	mu        sync.Mutex // guards what follows
	manifests map[string]*registry.Manifest
	sources   map[digest.Digest]layerstore.Source
	answer    registry.Answer
	tags      []string
	err       error // what everything answers
	status    registry.Status
	work      func(ctx context.Context, progress func(registry.Progress)) error
}

func newShelf(tb testing.TB) *shelf {
	tb.Helper()
	store, err := layerstore.Open(layerstore.Options{Root: tb.TempDir()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { store.Close() })
	return &shelf{
		store:     store,
		manifests: map[string]*registry.Manifest{},
		sources:   map[digest.Digest]layerstore.Source{},
		answer:    registry.Answer{Outcome: registry.OutcomeHit},
		status:    registry.Status{Writable: true},
	}
}

// serve makes a server of the shelf and an address of its mirror.
func (s *shelf) serve(tb testing.TB, o Options) (*Server, string) {
	tb.Helper()
	o.Registry = s
	server := New(o)
	return server, listen(tb, server.Mirror())
}

func listen(tb testing.TB, h http.Handler) string {
	tb.Helper()
	listener := httptest.NewServer(h)
	tb.Cleanup(listener.Close)
	return listener.URL
}

// put stores a sealed blob.
func (s *shelf) put(tb testing.TB, content []byte) digest.Digest {
	tb.Helper()
	d := digest.FromBytes(content)
	if err := s.store.Put(context.Background(), specs.Descriptor{Digest: d, Size: int64(len(content))}, content); err != nil {
		tb.Fatal(err)
	}
	return d
}

// manifest puts a manifest under a tag and its digest.
func (s *shelf) manifest(tag, content string) digest.Digest {
	m := &registry.Manifest{Content: []byte(content), Descriptor: specs.Descriptor{
		MediaType: specs.MediaTypeImageManifest, Digest: digest.FromString(content), Size: int64(len(content))}}
	s.manifests[tag] = m
	s.manifests[m.Descriptor.Digest.String()] = m
	return m.Descriptor.Digest
}

func (s *shelf) Manifest(_ context.Context, ref registry.Reference) (*registry.Manifest, registry.Answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, registry.Answer{}, s.err
	}
	m := s.manifests[ref.Tag+ref.Digest.String()]
	if m == nil {
		return nil, registry.Answer{}, &registry.Error{Code: registry.CodeManifestUnknown, Reference: ref.String(), Message: "no such manifest"}
	}
	return m, s.answer, nil
}

func (s *shelf) Blob(ctx context.Context, _ registry.Repository, d digest.Digest) (*layerstore.Blob, registry.Answer, error) {
	s.mu.Lock()
	source, answer, err := s.sources[d], s.answer, s.err
	s.mu.Unlock()
	if err != nil {
		return nil, registry.Answer{}, err
	}
	blob, err := s.store.Fetch(ctx, specs.Descriptor{Digest: d}, source)
	if err == nil {
		answer.Outcome = blob.Outcome().String()
	}
	return blob, answer, err
}

func (s *shelf) BlobInfo(_ context.Context, _ registry.Repository, d digest.Digest) (int64, registry.Answer, error) {
	if s.err != nil {
		return 0, registry.Answer{}, s.err
	}
	info, err := s.store.Stat(d)
	return info.Size, s.answer, err
}

func (s *shelf) Tags(context.Context, registry.Repository) ([]string, registry.Answer, error) {
	return s.tags, s.answer, s.err
}

func (s *shelf) Pin(ctx context.Context, ref registry.Reference, _ []string, progress func(registry.Progress)) (registry.Pin, error) {
	return registry.Pin{Reference: ref.String()}, s.work(ctx, progress)
}

func (s *shelf) Pull(ctx context.Context, ref registry.Reference, platforms []string, progress func(registry.Progress)) (registry.Image, error) {
	return registry.Image{Reference: ref.String(), Platforms: platforms}, s.work(ctx, progress)
}

func (s *shelf) Unpin(context.Context, registry.Reference) error { return s.err }

func (s *shelf) Pins(context.Context, bool) ([]registry.Pin, error) { return nil, s.err }

func (s *shelf) Images(context.Context) ([]registry.Image, error) { return nil, s.err }

func (s *shelf) Inspect(_ context.Context, ref registry.Reference) (registry.Inspection, error) {
	return registry.Inspection{Image: registry.Image{Reference: ref.String()}}, s.err
}

func (s *shelf) Remove(_ context.Context, ref registry.Reference) (registry.Removed, error) {
	return registry.Removed{References: []string{ref.String()}}, s.err
}

func (s *shelf) Scrub(_ context.Context, all bool, progress func(registry.Progress)) (registry.Scrubbed, error) {
	progress(registry.Progress{Phase: registry.PhaseScrub, BlobsTotal: 3})
	if !all {
		return registry.Scrubbed{Unrepaired: []registry.Unrepaired{}}, s.err
	}
	return registry.Scrubbed{Blobs: 3, Rotten: 1, Unrepaired: []registry.Unrepaired{{Digest: "sha256:x"}}}, s.err
}

func (s *shelf) Collect(_ context.Context, dryRun bool) (registry.Collection, error) {
	return registry.Collection{DryRun: dryRun, Leftovers: []registry.Leftover{}, Evicted: []registry.EvictedImage{}, Kept: []registry.KeptImage{}, Bytes: 7}, s.err
}

func (s *shelf) Status(context.Context) registry.Status { return s.status }

func (s *shelf) DiskUsage(context.Context) (registry.DiskUsage, error) { return s.Space() }

func (s *shelf) Space() (registry.DiskUsage, error) {
	return registry.DiskUsage{Blobs: 3, Bytes: 42}, s.err
}

// feed is a source whose one body a test writes, and breaks for good.
type feed struct {
	size   int64
	reader *io.PipeReader
	writer *io.PipeWriter
	once   sync.Once
	refuse error // what a second Open answers
}

func newFeed(size int64) *feed {
	f := &feed{size: size, refuse: errGone}
	f.reader, f.writer = io.Pipe()
	return f
}

func (f *feed) Open(context.Context, int64, int64) (body *layerstore.Body, err error) {
	err = f.refuse
	f.once.Do(func() { body, err = &layerstore.Body{ReadCloser: f.reader, Size: f.size}, nil })
	return body, err
}

// errGone is an upstream that has the blob no more: not asked again.
var errGone = &registry.Error{Code: registry.CodeBlobUnknown, Message: "upstream has no such blob"}

// call makes a request and reads the whole answer. Redirects are not followed.
func call(tb testing.TB, method, url string, header ...string) (*http.Response, string, error) {
	tb.Helper()
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		tb.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer, string(body), err
}

// get is call for answers that must come whole.
func get(tb testing.TB, method, url string, header ...string) (*http.Response, string) {
	tb.Helper()
	answer, body, err := call(tb, method, url, header...)
	if err != nil {
		tb.Fatalf("%s %s: %v", method, url, err)
	}
	return answer, body
}

// wantError checks a status and the code in an OCI error body.
func wantError(tb testing.TB, answer *http.Response, body string, status int, code string) {
	tb.Helper()
	if answer.StatusCode != status || !strings.HasPrefix(body, `{"errors":[{"code":"`+code+`","message":"`) {
		tb.Errorf("%s %s: %d %s, want %d %s", answer.Request.Method, answer.Request.URL, answer.StatusCode, body, status, code)
	}
	if got := answer.Header.Get("Content-Type"); got != "application/json" {
		tb.Errorf("error body of type %q", got)
	}
}

// wantHeader checks header fields, given as name and value; "" means absent.
func wantHeader(tb testing.TB, answer *http.Response, fields ...string) {
	tb.Helper()
	for i := 0; i < len(fields); i += 2 {
		if got := answer.Header.Get(fields[i]); got != fields[i+1] {
			tb.Errorf("%s %s: %s is %q, want %q", answer.Request.Method, answer.Request.URL, fields[i], got, fields[i+1])
		}
	}
}

// Takes says that nothing is pushed to it.
func (*shelf) Takes(string) bool { return false }

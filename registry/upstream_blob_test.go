package registry

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry/registrytest"
)

func TestBlobWholeAndRanges(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{})
	content := registrytest.Bytes(1, 1000)
	s := upstreamOf(t, r).blob("a/b", r.AddBlob("a/b", content))
	for _, c := range []struct {
		offset, end int64
		header      string
	}{{0, -1, ""}, {0, 10, "bytes=0-9"}, {100, 1000, "bytes=100-999"}, {100, -1, "bytes=100-"}, {999, 1000, "bytes=999-999"}} {
		r.ForgetRequests()
		body, err := s.Open(t.Context(), c.offset, c.end)
		noErr(t, err)
		end := c.end
		if end < 0 {
			end = 1000
		}
		if got := readAll(t, body); body.Offset != c.offset || body.Size != 1000 || !bytes.Equal(got, content[c.offset:end]) {
			t.Errorf("[%d, %d): offset %d, size %d, %d bytes", c.offset, c.end, body.Offset, body.Size, len(got))
		}
		if got := r.Requests("GET", "/blobs/")[0].Range; got != c.header {
			t.Errorf("[%d, %d) asks for %q", c.offset, c.end, got)
		}
	}
}

func TestUpstreamWithoutRangesSendsTheWhole(t *testing.T) {
	content := registrytest.Bytes(1, 1000)
	for name, lie := range map[string]registrytest.Lie{
		"200":             registrytest.IgnoreRange(),
		"416":             registrytest.Answer(416, ""),
		"another range":   registrytest.ShiftRange(),
		"odd Range reply": registrytest.Header("Content-Range", "bytes x"),
	} {
		r := registrytest.New(t, registrytest.Options{})
		s := upstreamOf(t, r).blob("a/b", r.AddBlob("a/b", content))
		r.Add(registrytest.Rule{Path: "/blobs/", Times: 1, Lie: lie})
		body, err := s.Open(t.Context(), 100, 200)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := readAll(t, body)
		if name == "odd Range reply" { // ServeContent writes the right one over it
			continue
		}
		if body.Offset != 0 || body.Size != 1000 || !bytes.Equal(got, content) {
			t.Errorf("%s: offset %d, size %d, %d bytes", name, body.Offset, body.Size, len(got))
		}
	}
}

func TestContentRange(t *testing.T) {
	for value, want := range map[string]bool{
		"bytes 0-9/100": true, "bytes 5-9/*": true, "BYTES 5-9/10": true,
		"": false, "bytes 0-9": false, "bytes 9-0/100": false, "bytes 0-99/99": false, "bytes */100": false, "bytes -5-9/100": false, "items 0-9/100": false,
	} {
		if _, _, ok := contentRange(value); ok != want {
			t.Errorf("%q: %v", value, ok)
		}
	}
}

func TestBlobErrorsTellWhetherToAskAgain(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{})
	d := r.AddBlob("a/b", []byte("x"))
	u := upstreamOf(t, r)
	_, err := u.blob("a/b", digest.FromString("none")).Open(t.Context(), 0, -1)
	if e := wantCode(t, err, CodeBlobUnknown); !strings.Contains(e.Reference, "a/b@sha256:") {
		t.Errorf("the reference is %q", e.Reference)
	}
	for status, want := range map[int]bool{400: true, 401: true, 403: true, 404: true, 405: true, 429: false, 500: false, 503: false} {
		r.Heal()
		r.Add(registrytest.Rule{Path: "/blobs/", Lie: registrytest.Answer(status, "9")})
		_, err := u.blob("a/b", d).Open(t.Context(), 0, -1)
		var permanent interface{ Permanent() bool }
		var after interface{ Wait() time.Duration }
		if !errors.As(err, &permanent) || permanent.Permanent() != want || !errors.As(err, &after) || after.Wait() != 9*time.Second {
			t.Errorf("%d: %v", status, err)
		}
	}
}

func TestBrokenBlobIsAnErrorAndAFailure(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{})
	d := r.AddBlob("a/b", registrytest.Bytes(1, 100_000))
	u := upstreamOf(t, r)
	r.Add(registrytest.Rule{Path: "/blobs/", Lie: registrytest.Cut(50_000)})
	body, err := u.blob("a/b", d).Open(t.Context(), 0, -1)
	noErr(t, err)
	defer body.Close()
	got, err := io.ReadAll(body)
	wantCode(t, err, CodeUnavailable)
	if len(got) != 50_000 {
		t.Errorf("%d bytes came before the cut", len(got))
	}
	if u.status().Failures != 1 {
		t.Errorf("the status is %+v", u.status())
	}
}

func TestRedirectCarriesNoAuthorizationAndIsAskedAnew(t *testing.T) {
	for _, auth := range []registrytest.Auth{registrytest.AuthBasic, registrytest.AuthBearer} {
		r := registrytest.New(t, registrytest.Options{Auth: auth})
		content := registrytest.Bytes(1, 1000)
		s := upstreamOf(t, r, withPassword(t, "open sesame")).blob("a/b", r.AddBlob("a/b", content))
		r.Add(registrytest.Rule{Path: "/v2/.*/blobs/", Lie: registrytest.Redirect()})
		for range 2 {
			body, err := s.Open(t.Context(), 500, 1000)
			noErr(t, err)
			if got := readAll(t, body); !bytes.Equal(got, content[500:]) {
				t.Fatalf("%s: %d bytes", auth, len(got))
			}
		}
		stored := r.Requests("GET", "^/storage/")
		if len(stored) != 2 || stored[0].Query == stored[1].Query {
			t.Fatalf("%s: the signed address was used again", auth)
		}
		for _, request := range stored {
			if request.Auth != "none" || request.Range != "bytes=500-999" {
				t.Errorf("%s: storage saw %s, %q", auth, request.Auth, request.Range)
			}
		}
	}
}

func TestSignedAddressIsNotInErrors(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{})
	d := r.AddBlob("a/b", registrytest.Bytes(1, 1000))
	u := upstreamOf(t, r)
	r.Add(registrytest.Rule{Path: "/v2/.*/blobs/", Lie: registrytest.Redirect()},
		registrytest.Rule{Path: "^/storage/", Lie: registrytest.Answer(403, "")})
	_, err := u.blob("a/b", d).Open(t.Context(), 0, -1)
	if e := wantCode(t, err, CodeUnavailable); e.Permanent() {
		t.Error("a refused signature is final, but the next one may be right")
	}
	mustNotContain(t, err.Error(), "signature", "secret")
	r.Heal()
	r.Add(registrytest.Rule{Path: "/v2/.*/blobs/", Lie: registrytest.RedirectTo("http://127.0.0.1:1/x?signature=secret-x")})
	_, err = u.blob("a/b", d).Open(t.Context(), 0, -1)
	wantCode(t, err, CodeUnavailable)
	mustNotContain(t, err.Error()+u.status().LastError, "signature", "secret")
}

func TestRefusedRedirects(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{})
	d := r.AddBlob("a/b", []byte("x"))
	u := upstreamOf(t, r)
	for _, to := range []string{
		"http://169.254.169.254/latest/meta-data", "http://[fe80::1]/", "http://[fd00:ec2::254]/", "http://0xa9fea9fe/",
		"http://alice:secret@127.0.0.1/", "ftp://127.0.0.1/", r.URL() + "/v2/a/b/blobs/" + d.String(),
	} {
		r.Heal()
		r.Add(registrytest.Rule{Path: "/blobs/", Lie: registrytest.RedirectTo(to)})
		_, err := u.blob("a/b", d).Open(t.Context(), 0, -1)
		if e := wantCode(t, err, CodeUnavailable); !e.Permanent() {
			t.Errorf("%s: %v", to, err)
		}
	}
	if n := r.Count("", "/blobs/"); n != 6+1+maxRedirects {
		t.Errorf("%d requests: a loop of redirects is not followed %d times", n, maxRedirects)
	}
	base := u.base
	base.Scheme, base.Host = "https", "registry.example"
	for _, to := range []string{"http://registry.example/x", "https://127.0.0.1/", "https://localhost/", "https://[::1]:5/"} {
		req := httptest.NewRequest(http.MethodGet, to, nil)
		if err := (redirects{base: base}).check(req, make([]*http.Request, 1)); err == nil {
			t.Errorf("from a public registry to %s: followed", to)
		}
	}
}

func TestDialGuardJudgesWhatANameResolvesTo(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{})
	guard := &dialGuard{base: upstreamOf(t, r, func(o *UpstreamOptions) { o.URL = "https://registry.example" }).base, timeout: time.Second}
	_, port, _ := strings.Cut(r.Host(), ":")
	if c, err := guard.dial(t.Context(), "tcp", "localhost:"+port); err == nil {
		c.Close()
		t.Fatal("a foreign name led to this machine")
	} else {
		wantCode(t, networkError(err), CodeUnavailable)
	}
	guard.proxies.Store("localhost:"+port, true)
	c, err := guard.dial(t.Context(), "tcp", "localhost:"+port)
	noErr(t, err)
	c.Close()
}

func TestBlobSize(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{})
	d := r.AddBlob("a/b", registrytest.Bytes(1, 1000))
	u := upstreamOf(t, r)
	_, err := u.blobSize(t.Context(), "a/b", digest.FromString("none"))
	wantCode(t, err, CodeBlobUnknown)
	for name, rules := range map[string][]registrytest.Rule{
		"plain":   nil,
		"no HEAD": {{Method: "HEAD", Path: "/blobs/", Lie: registrytest.NoHead()}},
		"storage refuses HEAD": {{Path: "/v2/.*/blobs/", Lie: registrytest.Redirect()},
			{Method: "HEAD", Path: "^/storage/", Lie: registrytest.Answer(403, "")}},
		"no ranges either": {{Method: "HEAD", Path: "/blobs/", Lie: registrytest.NoHead()}, {Path: "/blobs/", Lie: registrytest.IgnoreRange()}},
	} {
		r.Heal()
		r.Add(rules...)
		if size, err := u.blobSize(t.Context(), "a/b", d); err != nil || size != 1000 {
			t.Errorf("%s: got %d, %v", name, size, err)
		}
	}
}

var _ layerstore.Source = blobSource{}

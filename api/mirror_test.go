package api

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry"
)

func TestBaseSaysThatThisIsARegistry(t *testing.T) {
	_, url := newShelf(t).serve(t, Options{})
	for _, path := range []string{"/v2/", "/v2"} {
		answer, body := get(t, "GET", url+path)
		if answer.StatusCode != 200 || body != "{}" {
			t.Errorf("GET %s: %d %q", path, answer.StatusCode, body)
		}
		wantHeader(t, answer, "Docker-Distribution-Api-Version", "registry/2.0", "Content-Type", "application/json", "Www-Authenticate", "")
	}
	answer, _ := get(t, "HEAD", url+"/v2/")
	wantHeader(t, answer, "Content-Length", "2")
}

func TestManifestIsServedByTagAndDigest(t *testing.T) {
	s := newShelf(t)
	const content = `{"schemaVersion":2}  `
	d := s.manifest("latest", content)
	s.answer = registry.Answer{Outcome: registry.OutcomeHit, Age: 61500 * time.Millisecond}
	_, url := s.serve(t, Options{})
	for _, what := range []string{"latest", d.String()} {
		for _, method := range []string{"GET", "HEAD"} {
			answer, body := get(t, method, url+"/v2/library/nginx/manifests/"+what+"?ns=docker.io", "Accept", "text/plain")
			if answer.StatusCode != 200 || answer.ContentLength != int64(len(content)) {
				t.Errorf("%s %s: %d, length %d", method, what, answer.StatusCode, answer.ContentLength)
			}
			if want := map[string]string{"GET": content, "HEAD": ""}[method]; body != want {
				t.Errorf("%s %s: body %q", method, what, body)
			}
			wantHeader(t, answer, "Content-Type", "application/vnd.oci.image.manifest.v1+json", "Docker-Content-Digest", d.String(),
				"Etag", `"`+d.String()+`"`, "Accept-Ranges", "bytes", "Cache-Status", "imagecache; hit", "Age", "61")
		}
	}
}

func TestManifestConditionsAndRanges(t *testing.T) {
	s := newShelf(t)
	d := s.manifest("latest", "0123456789")
	_, url := s.serve(t, Options{})
	url += "/v2/x/manifests/latest"
	answer, body := get(t, "GET", url, "If-None-Match", `"`+d.String()+`"`)
	if answer.StatusCode != 304 || body != "" {
		t.Errorf("If-None-Match: %d %q", answer.StatusCode, body)
	}
	wantHeader(t, answer, "Etag", `"`+d.String()+`"`, "Docker-Content-Digest", d.String())
	answer, body = get(t, "GET", url, "If-None-Match", `"sha256:other"`)
	if answer.StatusCode != 200 || body != "0123456789" {
		t.Errorf("If-None-Match of another: %d %q", answer.StatusCode, body)
	}
	answer, body = get(t, "GET", url, "Range", "bytes=2-4")
	if answer.StatusCode != 206 || body != "234" {
		t.Errorf("Range: %d %q", answer.StatusCode, body)
	}
	answer, body = get(t, "GET", url, "Range", "bytes=10-")
	wantError(t, answer, body, 416, "SIZE_INVALID")
}

func TestOnlyReadingIsAnswered(t *testing.T) {
	s := newShelf(t)
	s.manifest("latest", "{}")
	_, url := s.serve(t, Options{})
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"} {
		answer, body := get(t, method, url+"/v2/x/manifests/latest")
		wantError(t, answer, body, 405, "UNSUPPORTED")
		wantHeader(t, answer, "Allow", "GET, HEAD")
	}
	answer, body := get(t, "POST", url+"/v2/x/blobs/uploads/")
	wantError(t, answer, body, 405, "UNSUPPORTED")
	answer, body = get(t, "GET", url+"/elsewhere")
	wantError(t, answer, body, 404, "UNSUPPORTED")
}

// TestOddPathsAreRefusedAndNeverRedirected writes the request line itself,
// because clients clean paths.
func TestOddPathsAreRefusedAndNeverRedirected(t *testing.T) {
	_, url := newShelf(t).serve(t, Options{})
	for path, want := range map[string]string{
		"/v2/../manifests/latest":            "400 NAME_INVALID",
		"/v2/a/../../x/manifests/latest":     "400 NAME_INVALID",
		"/v2/a//b/manifests/latest":          "400 NAME_INVALID",
		"/v2//":                              "400 NAME_INVALID",
		"/v2/a%2fb/manifests/latest":         "400 NAME_INVALID",
		"/v2/%2e%2e/manifests/latest":        "400 NAME_INVALID",
		"/v2/a/manifests/..":                 "400 NAME_INVALID",
		"/v2/a/manifests/x?ns=../x":          "400 NAME_INVALID",
		"/v2/a/blobs/sha256:xyz":             "400 DIGEST_INVALID",
		"/v2/a/manifests/sha256%3a" + hex64:  "404 MANIFEST_UNKNOWN",
		"/v2/a/manifests/-":                  "404 MANIFEST_UNKNOWN",
		"/../v2/a/manifests/latest":          "404 UNSUPPORTED",
		"//v2/a/manifests/latest":            "404 UNSUPPORTED",
		"/v2%2fa/manifests/latest":           "404 UNSUPPORTED",
		"/v2/a/manifests/latest?ns=" + "%00": "400 NAME_INVALID",
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path)
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(answer.Body)
		conn.Close()
		got := fmt.Sprint(answer.StatusCode)
		if _, code, ok := strings.Cut(string(body), `"code":"`); ok {
			code, _, _ = strings.Cut(code, `"`)
			got += " " + code
		}
		if got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

func TestEveryErrorHasItsStatusAndCode(t *testing.T) {
	s := newShelf(t)
	_, url := s.serve(t, Options{})
	known := func(c registry.Code) error {
		return fmt.Errorf("on the way: %w", &registry.Error{Code: c, Reference: "docker.io/library/x", Message: "so it is", Err: io.ErrNoProgress})
	}
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{known(registry.CodeNameUnknown), 404, "NAME_UNKNOWN"},
		{known(registry.CodeManifestUnknown), 404, "MANIFEST_UNKNOWN"},
		{known(registry.CodeBlobUnknown), 404, "BLOB_UNKNOWN"},
		{known(registry.CodeNameInvalid), 400, "NAME_INVALID"},
		{known(registry.CodeTagInvalid), 400, "TAG_INVALID"},
		{known(registry.CodeDigestInvalid), 400, "DIGEST_INVALID"},
		{known(registry.CodeManifestInvalid), 502, "MANIFEST_INVALID"},
		{known(registry.CodeUnauthorized), 401, "UNAUTHORIZED"},
		{known(registry.CodeDenied), 403, "DENIED"},
		{known(registry.CodeTooMany), 429, "TOOMANYREQUESTS"},
		{known(registry.CodeUnavailable), 502, "UNAVAILABLE"},
		{known(registry.CodeTimeout), 504, "TIMEOUT"},
		{known(registry.CodePinned), 409, "DENIED"}, // what the specification has for it; the administration says PINNED
		{known(registry.CodeUnsupported), 405, "UNSUPPORTED"},
		{known("SOMETHING_NEW"), 500, "SOMETHING_NEW"},
		{layerstore.ErrNotFound, 404, "BLOB_UNKNOWN"},
		{layerstore.ErrClosed, 503, "UNAVAILABLE"},
		{&layerstore.DigestError{}, 502, "UNAVAILABLE"},
		{&layerstore.SizeError{}, 502, "UNAVAILABLE"},
		{context.DeadlineExceeded, 504, "TIMEOUT"},
		{context.Canceled, 503, "UNAVAILABLE"}, // not by this client, who is still here
		{io.ErrNoProgress, 500, "UNKNOWN"},
	} {
		s.err = c.err
		answer, body := get(t, "GET", url+"/v2/x/manifests/latest")
		wantError(t, answer, body, c.status, c.code)
		if strings.Contains(body, io.ErrNoProgress.Error()) {
			t.Errorf("%v: the cause is shown to the client: %s", c.err, body)
		}
		answer, body = get(t, "HEAD", url+"/v2/x/manifests/latest")
		if answer.StatusCode != c.status || body != "" {
			t.Errorf("HEAD, %v: %d %q", c.err, answer.StatusCode, body)
		}
	}
}

func TestRefusalsSayWhatToDo(t *testing.T) {
	s := newShelf(t)
	_, url := s.serve(t, Options{})
	s.err = &registry.Error{Code: registry.CodeTooMany, Message: "slowly", RetryAfter: 1500 * time.Millisecond}
	answer, _ := get(t, "GET", url+"/v2/x/manifests/latest")
	wantHeader(t, answer, "Retry-After", "2")
	s.err = &registry.Error{Code: registry.CodeUnauthorized, Reference: "ghcr.io/x/y", Message: "no"}
	answer, _ = get(t, "GET", url+"/v2/x/manifests/latest")
	wantHeader(t, answer, "WWW-Authenticate", `Upstream realm="ghcr.io/x/y"`)
}

func TestCacheStatusTellsHowItWasAnswered(t *testing.T) {
	s := newShelf(t)
	s.manifest("latest", "{}")
	_, url := s.serve(t, Options{})
	for _, c := range []struct {
		answer      registry.Answer
		status, age string
	}{
		{registry.Answer{Outcome: "hit"}, "imagecache; hit", "0"},
		{registry.Answer{Outcome: "hit", Detail: "pinned", Stored: true, Age: time.Hour}, "imagecache; hit; detail=pinned", "3600"},
		{registry.Answer{Outcome: "miss", Stored: true, Age: time.Hour}, "imagecache; fwd=miss; stored", ""},
		{registry.Answer{Outcome: "miss"}, "imagecache; fwd=miss", ""},
		{registry.Answer{Outcome: "joined", Stored: true}, "imagecache; fwd=miss; collapsed; stored", ""},
		{registry.Answer{Outcome: "bypass"}, "imagecache; fwd=miss; detail=bypass", ""},
		{registry.Answer{Outcome: "stale", Detail: "upstream said \"no\\\" – 503", Age: 2 * time.Minute},
			`imagecache; fwd=stale; detail="upstream said \"no\\\" ??? 503"`, "120"},
		{registry.Answer{Outcome: "unheard of"}, "", ""},
	} {
		s.answer = c.answer
		answer, _ := get(t, "GET", url+"/v2/x/manifests/latest")
		wantHeader(t, answer, "Cache-Status", c.status, "Age", c.age)
	}
}

func TestTagsTellWhereTheyAreFrom(t *testing.T) {
	s := newShelf(t)
	s.tags = []string{"1.0"}
	_, url := s.serve(t, Options{})
	for _, c := range []struct {
		answer registry.Answer
		status string
	}{
		{registry.Answer{Outcome: "stale", Detail: "those known here: gone"}, `imagecache; fwd=stale; detail="those known here: gone"`},
		{registry.Answer{Outcome: "miss"}, "imagecache; fwd=miss"},
	} {
		s.answer = c.answer
		answer, _ := get(t, "GET", url+"/v2/x/tags/list")
		wantHeader(t, answer, "Cache-Status", c.status, "Age", "")
	}
}

func TestTagsComeByPages(t *testing.T) {
	s := newShelf(t)
	s.tags = []string{"1.0", "1.1", "2.0", "latest"}
	_, url := s.serve(t, Options{})
	for _, c := range []struct{ path, tags, link string }{
		{"/v2/x/tags/list", `["1.0","1.1","2.0","latest"]`, ""},
		{"/v2/x/tags/list?n=2", `["1.0","1.1"]`, `</v2/x/tags/list?last=1.1&n=2>; rel="next"`},
		{"/v2/x/tags/list?n=2&last=1.1", `["2.0","latest"]`, ""},
		{"/v2/x/tags/list?n=2&last=1.1.5", `["2.0","latest"]`, ""},
		{"/v2/x/tags/list?n=1&last=1.0&ns=127.0.0.1:5000", `["1.1"]`, `</v2/x/tags/list?last=1.1&n=1&ns=127.0.0.1%3A5000>; rel="next"`},
		{"/v2/x/tags/list?n=0", `[]`, ""},
		{"/v2/x/tags/list?n=9&last=latest", `[]`, ""},
		{"/v2/x/tags/list?last=zzz", `[]`, ""},
	} {
		answer, body := get(t, "GET", url+c.path)
		if want := `{"name":"x","tags":` + c.tags + "}\n"; answer.StatusCode != 200 || body != want {
			t.Errorf("%s: %d %s, want %s", c.path, answer.StatusCode, body, want)
		}
		wantHeader(t, answer, "Link", c.link, "Content-Type", "application/json")
	}
	for _, n := range []string{"-1", "x", "1.5", "99999999999999999999"} {
		answer, body := get(t, "GET", url+"/v2/x/tags/list?n="+n)
		wantError(t, answer, body, 400, "UNSUPPORTED")
	}
}

func TestAccessLineTellsWhatHappenedAndNoSecret(t *testing.T) {
	s := newShelf(t)
	s.manifest("latest", "{}")
	s.answer = registry.Answer{Outcome: registry.OutcomeStale, Detail: "upstream answered 503"}
	var log bytes.Buffer
	server := New(Options{Registry: s, AccessLog: slog.New(slog.NewTextHandler(&log, nil))})
	r, _ := http.NewRequest("GET", "/v2/x/manifests/latest?token=hush&ns=ghcr.io", nil)
	r.RemoteAddr = "192.0.2.1:1234"
	r.Header.Set("Authorization", "Bearer hush")
	r.Header.Set("User-Agent", "test/1\nforged")
	server.Mirror().ServeHTTP(discard{http.Header{}}, r)
	line := log.String()
	for _, want := range []string{
		"method=GET", "path=/v2/x/manifests/latest", "ns=ghcr.io", "status=200", "bytes=2", "duration=", "outcome=stale",
		`reason="upstream answered 503"`, "client=192.0.2.1:1234", `agent="test/1\nforged"`,
	} {
		if !strings.Contains(line, want) {
			t.Errorf("no %s in %s", want, line)
		}
	}
	if strings.Contains(line, "hush") || strings.Count(line, "\n") != 1 {
		t.Errorf("secret or torn line: %s", line)
	}
}

// discard is a ResponseWriter that forgets.
type discard struct{ header http.Header }

func (d discard) Header() http.Header       { return d.header }
func (discard) WriteHeader(int)             {}
func (discard) Write(p []byte) (int, error) { return len(p), nil }

func TestReadinessFollowsDraining(t *testing.T) {
	s := newShelf(t)
	server, url := s.serve(t, Options{})
	for _, path := range []string{"/healthz", "/readyz"} {
		for _, method := range []string{"GET", "HEAD"} {
			if answer, _ := get(t, method, url+path); answer.StatusCode != 200 {
				t.Errorf("%s %s: %d", method, path, answer.StatusCode)
			}
		}
	}
	server.Drain()
	answer, body := get(t, "GET", url+"/readyz")
	wantError(t, answer, body, 503, "UNAVAILABLE")
	if answer, _ := get(t, "GET", url+"/healthz"); answer.StatusCode != 200 {
		t.Errorf("healthz while draining: %d", answer.StatusCode)
	}
}

func TestMetricsCountWhatWasServed(t *testing.T) {
	s := newShelf(t)
	s.manifest("latest", "{}")
	d := s.put(t, []byte("twelve bytes"))
	s.status.Upstreams = []registry.UpstreamStatus{{Name: "ghcr.io", State: registry.StateBackingOff, Requests: 7, Failures: 2,
		Allowance: &registry.Allowance{Limit: 100, Remaining: 9, Kept: true},
		Mirrors:   []registry.UpstreamStatus{{Name: "m.example", URL: "https://m.example/hub", State: registry.StateOK, Requests: 5, Failures: 1}}}}
	_, url := s.serve(t, Options{Version: "v1"})
	get(t, "GET", url+"/v2/x/manifests/latest")
	get(t, "GET", url+"/v2/x/blobs/"+d.String())
	get(t, "HEAD", url+"/v2/x/blobs/"+d.String())
	s.answer.Outcome = registry.OutcomeJoined
	get(t, "GET", url+"/v2/x/manifests/latest")
	get(t, "GET", url+"/v2/x/manifests/absent")
	answer, body := get(t, "GET", url+"/metrics")
	if answer.StatusCode != 200 {
		t.Fatalf("%d %s", answer.StatusCode, body)
	}
	for _, want := range []string{
		`imagecache_gets_total{kind="manifest"} 2`,
		`imagecache_gets_total{kind="blob"} 1`,
		`imagecache_hits_total{kind="manifest"} 1`,
		`imagecache_loads_total{kind="manifest"} 1`,
		`imagecache_loads_deduped_total{kind="manifest"} 0`,
		`imagecache_requests_total{code="200",kind="blob",method="HEAD",outcome="hit"} 1`,
		`imagecache_requests_total{code="404",kind="manifest",method="GET",outcome="refused"} 1`,
		`imagecache_request_duration_seconds_count{kind="manifest"} 3`,
		`imagecache_upstream_requests_total{upstream="ghcr.io"} 7`,
		`imagecache_upstream_failures_total{upstream="ghcr.io"} 2`,
		`imagecache_upstream_up{upstream="ghcr.io"} 0`,
		`imagecache_upstream_ratelimit_limit{upstream="ghcr.io"} 100`,
		`imagecache_upstream_ratelimit_remaining{upstream="ghcr.io"} 9`,
		`imagecache_mirror_requests_total{mirror="m.example/hub",upstream="ghcr.io"} 5`,
		`imagecache_mirror_failures_total{mirror="m.example/hub",upstream="ghcr.io"} 1`,
		`imagecache_mirror_up{mirror="m.example/hub",upstream="ghcr.io"} 1`,
		"imagecache_bytes 42", "imagecache_items 3", "imagecache_pins 0",
		`imagecache_build_info{version="v1"} 1`, "go_goroutines ",
	} {
		if !strings.Contains(body, "\n"+want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(body, "library") {
		t.Error("a repository's name is a label")
	}
	s.err = io.ErrNoProgress
	if answer, body := get(t, "GET", url+"/metrics"); answer.StatusCode != 200 || !strings.Contains(body, "\nimagecache_flights 0") {
		t.Errorf("a disk that cannot be measured hides the other metrics: %d", answer.StatusCode)
	}
}

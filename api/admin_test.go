package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/imagecache/imagecache/registry"
)

// admin is the address of the administration of a shelf.
func admin(t *testing.T, s *shelf) string {
	t.Helper()
	return listen(t, New(Options{Registry: s, Version: "v1", Listen: "127.0.0.1:5050"}).Admin())
}

// post sends a JSON body.
func post(t *testing.T, url, body string) (*http.Response, string) {
	t.Helper()
	answer, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	all, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(all)
}

func TestAdministrationAnswersInJSON(t *testing.T) {
	url := admin(t, newShelf(t))
	for _, c := range []struct{ method, path, want string }{
		{"GET", "/api/v1/status", `"version":"v1"`},
		{"GET", "/api/v1/status", `"listen":"127.0.0.1:5050"`},
		{"GET", "/api/v1/df", `"bytes":42`},
		{"GET", "/api/v1/images", `{"images":[]}`},
		{"GET", "/api/v1/pins", `{"pins":[]}`},
		{"GET", "/api/v1/pins?drift=true", `{"pins":[]}`},
		{"GET", "/api/v1/images/inspect?ref=nginx", `"reference":"docker.io/library/nginx:latest"`},
		{"DELETE", "/api/v1/images?ref=nginx", `"references":["docker.io/library/nginx:latest"]`},
	} {
		answer, body := get(t, c.method, url+c.path)
		if answer.StatusCode != 200 || !strings.Contains(body, c.want) {
			t.Errorf("%s %s: %d %s, want %s", c.method, c.path, answer.StatusCode, body, c.want)
		}
		wantHeader(t, answer, "Content-Type", "application/json")
	}
	if answer, body := get(t, "DELETE", url+"/api/v1/pins?ref=nginx"); answer.StatusCode != 204 || body != "" {
		t.Errorf("unpin: %d %q", answer.StatusCode, body)
	}
	for _, path := range []string{"/metrics", "/healthz", "/readyz"} {
		if answer, _ := get(t, "GET", url+path); answer.StatusCode != 200 {
			t.Errorf("%s: %d", path, answer.StatusCode)
		}
	}
}

func TestAdministrationRefusesWhatIsWrong(t *testing.T) {
	s := newShelf(t)
	url := admin(t, s)
	for _, c := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", "/api/v1/images/inspect", 400, "REQUEST_INVALID"},
		{"GET", "/api/v1/images/inspect?ref=x/UPPER", 400, "NAME_INVALID"},
		{"DELETE", "/api/v1/images?ref=x@sha256:1", 400, "DIGEST_INVALID"},
		{"GET", "/api/v1/pull", 405, "UNSUPPORTED"},
		{"PUT", "/api/v1/pins", 405, "UNSUPPORTED"},
		{"GET", "/api/v1/other", 404, "UNSUPPORTED"},
		{"GET", "/v2/", 404, "UNSUPPORTED"},
	} {
		answer, body := get(t, c.method, url+c.path)
		wantError(t, answer, body, c.status, c.code)
	}
	answer, _ := get(t, "PUT", url+"/api/v1/pins")
	wantHeader(t, answer, "Allow", "DELETE, GET, POST")
	s.err = &registry.Error{Code: registry.CodePinned, Message: "it is pinned"}
	answer, body := get(t, "DELETE", url+"/api/v1/images?ref=x")
	wantError(t, answer, body, 409, "PINNED")
	s.err = errors.New("disk on fire")
	answer, body = get(t, "GET", url+"/api/v1/df")
	wantError(t, answer, body, 500, "UNKNOWN")
	if !strings.Contains(body, "disk on fire") {
		t.Errorf("an administrator is not told why: %s", body)
	}
}

func TestWishesAreReadStrictly(t *testing.T) {
	s := newShelf(t)
	s.work = func(context.Context, func(registry.Progress)) error { t.Error("work was begun"); return nil }
	url := admin(t, s) + "/api/v1/pins"
	for body, want := range map[string]string{
		`{"reference":"x","platform":"linux/amd64"}`: "REQUEST_INVALID", // platforms, misspelt
		`{"reference":"x"} {}`:                       "REQUEST_INVALID",
		`{"reference":`:                              "REQUEST_INVALID",
		``:                                           "REQUEST_INVALID",
		`{"reference":""}`:                           "NAME_INVALID",
		`{"reference":"x:-"}`:                        "TAG_INVALID",
	} {
		answer, got := post(t, url, body)
		wantError(t, answer, got, 400, want)
	}
	answer, got := post(t, url, `{"reference":"`+strings.Repeat("x", maxRequest)+`"}`)
	wantError(t, answer, got, 413, "REQUEST_INVALID")
	answer, got = get(t, "POST", url, "Content-Type", "text/plain")
	wantError(t, answer, got, 400, "REQUEST_INVALID")
	answer, got = get(t, "POST", url, "Content-Type", "application/json", "Sec-Fetch-Site", "cross-site")
	wantError(t, answer, got, 403, "DENIED")
}

func TestStreamTellsProgressAndThenTheResult(t *testing.T) {
	s := newShelf(t)
	url := admin(t, s)
	s.work = func(_ context.Context, progress func(registry.Progress)) error {
		for i := range 10000 {
			progress(registry.Progress{Phase: registry.PhaseFetch, BlobsDone: i})
		}
		return nil
	}
	answer, body := post(t, url+"/api/v1/pull", `{"reference":"nginx","platforms":["linux/arm64"]}`)
	wantHeader(t, answer, "Content-Type", "application/x-ndjson")
	lines := strings.Split(strings.TrimSuffix(body, "\n"), "\n")
	if len(lines) < 2 || len(lines) > 100 {
		t.Fatalf("%d lines of progress", len(lines))
	}
	if want := `{"progress":{"reference":"","phase":"fetch","blobs_done":9999,`; !strings.HasPrefix(lines[len(lines)-2], want) {
		t.Errorf("the last news is lost: %s", lines[len(lines)-2])
	}
	var last struct{ Image registry.Image }
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Image.Reference != "docker.io/library/nginx:latest" || len(last.Image.Platforms) != 1 {
		t.Errorf("result %s: %v", lines[len(lines)-1], err)
	}
	_, body = post(t, url+"/api/v1/pins", `{"reference":"nginx"}`)
	if !strings.Contains(body, "\n"+`{"pin":{"reference":"docker.io/library/nginx:latest",`) {
		t.Errorf("no pin in %s", body)
	}
}

func TestStreamThatFails(t *testing.T) {
	s := newShelf(t)
	url := admin(t, s) + "/api/v1/pull"
	denied := &registry.Error{Code: registry.CodeDenied, Message: "upstream refuses this"}
	s.work = func(context.Context, func(registry.Progress)) error { return denied }
	answer, body := post(t, url, `{"reference":"nginx"}`)
	wantError(t, answer, body, 403, "DENIED")
	s.work = func(_ context.Context, progress func(registry.Progress)) error {
		progress(registry.Progress{Phase: registry.PhaseResolve})
		return denied
	}
	answer, body = post(t, url, `{"reference":"nginx"}`)
	if want := "\n" + `{"error":{"code":"DENIED","message":"upstream refuses this"}}` + "\n"; answer.StatusCode != 200 || !strings.HasSuffix(body, want) {
		t.Errorf("%d %s, want a last line %s", answer.StatusCode, body, want)
	}
}

func TestClientThatLeavesEndsTheWaiting(t *testing.T) {
	s := newShelf(t)
	ended := make(chan error, 1)
	s.work = func(ctx context.Context, progress func(registry.Progress)) error {
		progress(registry.Progress{Phase: registry.PhaseFetch})
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}
	answer, err := http.Post(admin(t, s)+"/api/v1/pins", "application/json", strings.NewReader(`{"reference":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(answer.Body).ReadString('\n'); err != nil {
		t.Fatal(err) // a line comes at once, while the work goes on
	}
	answer.Body.Close()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

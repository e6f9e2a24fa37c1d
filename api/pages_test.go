package api

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestAWebPageUnderAnotherNameDoesNotAdministrate: its browser takes our address
// for its own (DNS rebinding), so that nothing but the name gives it away.
func TestAWebPageUnderAnotherNameDoesNotAdministrate(t *testing.T) {
	var log ledger
	url := listen(t, New(Options{Registry: newShelf(t), Log: slog.New(slog.NewTextHandler(&log, nil))}).Admin())
	for host, want := range map[string]int{
		"": 200, "localhost:5051": 200, "LOCALHOST": 200, "127.0.0.1": 200, "[::1]:5051": 200, "[::1]": 200, "10.0.0.7:1": 200,
		"elsewhere.example": 403, "elsewhere.example:5051": 403, "localhost.elsewhere.example": 403, "127.0.0.1.elsewhere.example": 403,
	} {
		for _, method := range []string{"GET", "POST"} {
			r, err := http.NewRequest(method, url+map[string]string{"GET": "/api/v1/status", "POST": "/api/v1/gc"}[method], strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			if host != "" {
				r.Host = host
				r.Header.Set("Origin", "http://"+host)
			}
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
			if answer.StatusCode != want {
				t.Errorf("%s as %q: %d, want %d", method, host, answer.StatusCode, want)
			}
		}
	}
	comesTrue(t, func() bool { return strings.Count(strings.Join(log.lines(), "\n"), "outcome=refused") == 8 })
}

// TestNamesMeanNothingOverASocket: there is no browser that asks there.
func TestNamesMeanNothingOverASocket(t *testing.T) {
	r := httptest.NewRequest("GET", "http://anything.example/api/v1/status", nil)
	w := httptest.NewRecorder()
	New(Options{Registry: newShelf(t)}).Admin().ServeHTTP(w, r)
	if w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestAPageFromElsewhereIsInTheAudit(t *testing.T) {
	var log bytes.Buffer
	r := httptest.NewRequest("POST", "/api/v1/gc", strings.NewReader("{}"))
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	w := httptest.NewRecorder()
	New(Options{Registry: newShelf(t), Log: slog.New(slog.NewTextHandler(&log, nil))}).Admin().ServeHTTP(w, r)
	if w.Code != 403 || !strings.Contains(log.String(), "verb=gc what=/api/v1/gc outcome=refused") {
		t.Errorf("%d, the log says %q", w.Code, &log)
	}
}

// TestAWebPageUnderAnotherNameDoesNotPull: who reaches us on loopback may see
// what we can get, and a browser of this machine is no person's wish. Programs may
// call us what they like.
func TestAWebPageUnderAnotherNameDoesNotPull(t *testing.T) {
	s := newShelf(t)
	url := listen(t, New(Options{Registry: s, Push: true}).Mirror()) + "/v2/x/blobs/" + s.put(t, []byte("private")).String()
	ask := func(host string, header ...string) int {
		t.Helper()
		r, err := http.NewRequest("GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer.StatusCode
	}
	for _, header := range [][]string{
		{"Accept-Language", "de"}, {"User-Agent", "Mozilla/5.0 (X11)"}, {"Sec-Fetch-Site", "same-origin"}, {"Referer", "http://elsewhere.example/"}, {"Origin", "http://elsewhere.example"},
	} {
		if status := ask("elsewhere.example:5050", header...); status != 403 {
			t.Errorf("%v under another name: %d", header, status)
		}
		if status := ask("127.0.0.1:5050", header...); status != 200 {
			t.Errorf("%v by address: %d", header, status)
		}
	}
	if status := ask("cache.internal", "User-Agent", "containerd/v2.2"); status != 200 {
		t.Errorf("a program: %d", status)
	}
}

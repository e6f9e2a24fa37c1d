package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/imagecache/imagecache/api/access"
)

// deadlines is an answer whose connection tells until when it reads.
type deadlines struct {
	*httptest.ResponseRecorder
	at time.Time
}

func (d *deadlines) SetReadDeadline(at time.Time) error {
	d.at = at
	return nil
}

// TestABodyThatNobodyReadsIsBounded in time, and one that was read is not: what
// is done with it may take longer.
func TestABodyThatNobodyReadsIsBounded(t *testing.T) {
	gate, err := access.New(access.Options{HtpasswdFile: usersFile(t, "ann"), Rules: someRules})
	if err != nil {
		t.Fatal(err)
	}
	server := New(Options{Registry: newHome(t).registry, Gate: gate})
	form := "grant_type=password&username=ann&password=ann's"
	for name, c := range map[string]struct {
		handler    http.Handler
		path, kind string
		read       bool
	}{
		"a push that is refused":   {server.Mirror(), "/v2/local/team/app/blobs/uploads/", "", false},
		"nothing is there":         {server.Mirror(), "/nowhere", "", false},
		"a method that is none":    {server.Mirror(), "/metrics", "", false},
		"no form":                  {server.Mirror(), "/token", "text/plain", false},
		"a form":                   {server.Mirror(), "/token", formType, true},
		"nobody administrates":     {server.RemoteAdmin(), "/api/v1/pins", "application/json", false},
		"somebody does, and reads": {server.Admin(), "/api/v1/gc", "application/json", true},
	} {
		w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
		body := form
		if c.kind == "application/json" {
			body = `{"dry_run":true}`
		}
		r := httptest.NewRequestWithContext(t.Context(), "POST", "http://cache.example"+c.path, strings.NewReader(body))
		r.Header.Set("Content-Type", c.kind)
		c.handler.ServeHTTP(w, r)
		if w.at.IsZero() != c.read {
			t.Errorf("%s: answered %d, and read until %v", name, w.Code, w.at)
		}
	}
	w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
	server.Mirror().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "http://cache.example/healthz", nil))
	if !w.at.IsZero() {
		t.Error("a request without a body has a deadline")
	}
}

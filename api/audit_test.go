package api

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// TestTheAuditHoldsNoLogin: who writes one before a host has made a mistake, and
// is told so, but it was sent.
func TestTheAuditHoldsNoLogin(t *testing.T) {
	var log bytes.Buffer
	h := New(Options{Registry: newShelf(t), Rootfs: givenRootfs{}, Log: slog.New(slog.NewTextHandler(&log, nil))}).Admin()
	for _, ref := range []string{"https://ann:secret@registry.example/app:v1", "ann:secret@registry.example/app", "ann:se/secret@registry.example/app@" + sha256d} {
		for _, request := range []*http.Request{
			httptest.NewRequest("DELETE", "/api/v1/pins?ref="+url.QueryEscape(ref), nil),
			httptest.NewRequest("POST", "/api/v1/import?name="+url.QueryEscape(ref), strings.NewReader("")),
			httptest.NewRequest("POST", "/api/v1/rootfs", strings.NewReader(`{"key":"/mnt","reference":"`+ref+`"}`)),
		} {
			request.Header.Set("Content-Type", map[bool]string{true: mediaTypeTar, false: "application/json"}[request.URL.Path == "/api/v1/import"])
			h.ServeHTTP(httptest.NewRecorder(), request)
		}
	}
	if told := log.String(); strings.Contains(told, "secret") || strings.Count(told, "…@registry.example/app") != 9 {
		t.Errorf("the audit says\n%s", told)
	}
	if kept := "docker.io/library/alpine:3@" + sha256d; withoutLogin(kept) != kept {
		t.Errorf("%s is told as %s", kept, withoutLogin(kept))
	}
}

// leaving is a client that leaves when it is sent anything.
type leaving struct{ http.ResponseWriter }

func (leaving) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestAnExportThatNobodyTookIsNotDone(t *testing.T) {
	h := newHome(t)
	h.pushImage("local/app", "v1", "a layer", nil)
	var log bytes.Buffer
	r := httptest.NewRequest("POST", "/api/v1/export", strings.NewReader(`{"references":["local/app:v1"]}`))
	r.Header.Set("Content-Type", "application/json")
	New(Options{Registry: h.registry, Log: slog.New(slog.NewTextHandler(&log, nil))}).Admin().ServeHTTP(leaving{httptest.NewRecorder()}, r)
	if !strings.Contains(log.String(), `verb=export what=local/app:v1 outcome=failed reason="the client left"`) {
		t.Errorf("the log says %q", &log)
	}
}

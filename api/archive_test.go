package api

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// fails is a body that ends in an error.
type fails struct{ err error }

func (f fails) Read([]byte) (int, error) { return 0, f.err }
func (fails) Close() error               { return nil }

// TestWhoSendsAnArchiveIsToldThatItStalled though net/http takes a connection for left whose deadline passed.
func TestWhoSendsAnArchiveIsToldThatItStalled(t *testing.T) {
	h := newHouse(t, registrytest.Options{})
	for _, c := range []struct {
		err    error
		status int
		says   string
	}{
		{os.ErrDeadlineExceeded, http.StatusRequestTimeout, "nothing came for 5m0s; nothing was imported"},
		{io.ErrUnexpectedEOF, http.StatusBadRequest, "broke off: unexpected EOF"},
	} {
		r := httptest.NewRequest("POST", "/api/v1/import", fails{c.err})
		r.Header.Set("Content-Type", mediaTypeTar)
		w := httptest.NewRecorder()
		h.server.Admin().ServeHTTP(w, r)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%v: %d %s", c.err, w.Code, w.Body)
		}
	}
}

// TestAnArchiveThatIsReadHasNoDeadline: the work on it may take longer than its sender may be silent.
func TestAnArchiveThatIsReadHasNoDeadline(t *testing.T) {
	var last time.Time
	b := &archiveBody{ReadCloser: io.NopCloser(strings.NewReader("all")), until: func(at time.Time) error { last = at; return nil }}
	if _, err := b.Read(make([]byte, 3)); err != nil || last.IsZero() {
		t.Error("it may be silent for ever")
	}
	if _, err := io.ReadAll(b); err != nil || !last.IsZero() {
		t.Errorf("the deadline is %s, %v", last, err)
	}
}

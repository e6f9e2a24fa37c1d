package api

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/layerstore/storetest"
	"github.com/imagecache/imagecache/registry"
)

// full puts a folder where the partial file of a blob would be, so that the
// store cannot keep it.
func (s *shelf) full(t *testing.T, d digest.Digest) {
	t.Helper()
	part := filepath.Join(s.store.Root(), "ingest", strings.ReplaceAll(d.String(), ":", "-")+".part")
	if err := os.MkdirAll(filepath.Join(part, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestBlobThatCannotBeKeptIsServed(t *testing.T) {
	s := newShelf(t)
	var log strings.Builder
	_, url := s.serve(t, Options{AccessLog: slog.New(slog.NewTextHandler(&log, nil))})
	content := noise(3 << 20)
	d := digest.FromBytes(content)
	s.full(t, d)
	src := storetest.NewSource(content)
	s.sources[d] = src
	answer, body := get(t, "GET", url+"/v2/x/blobs/"+d.String())
	if answer.StatusCode != 200 || body != string(content) {
		t.Errorf("%d and %d bytes", answer.StatusCode, len(body))
	}
	wantHeader(t, answer, "Cache-Status", "imagecache; fwd=miss; detail=bypass", "Age", "")
	if !strings.Contains(log.String(), "outcome=bypass reason=") {
		t.Errorf("logged %s", log.String())
	}
	if want := (storetest.Request{Offset: 0, End: -1}); len(src.Requests()) != 1 || src.Requests()[0] != want {
		t.Errorf("upstream was asked %v", src.Requests())
	}
	for field, want := range map[string][]byte{"bytes=10-19": content[10:20], "bytes=1000000-": content[1000000:]} {
		answer, body := get(t, "GET", url+"/v2/x/blobs/"+d.String(), "Range", field)
		if answer.StatusCode != 206 || body != string(want) {
			t.Errorf("%s: %d and %d bytes", field, answer.StatusCode, len(body))
		}
	}
}

func TestWrongBlobPastTheStoreIsCut(t *testing.T) {
	s := newShelf(t)
	_, url := s.serve(t, Options{})
	content := noise(1 << 20)
	d := digest.FromBytes(content)
	s.full(t, d)
	content = bytes.Clone(content)
	content[len(content)-1]++
	s.sources[d] = storetest.NewSource(content)
	answer, body, err := call(t, "GET", url+"/v2/x/blobs/"+d.String())
	if answer == nil || err == nil || len(body) >= len(content) {
		t.Errorf("%v and %d of %d bytes, %v", answer, len(body), len(content), err)
	}
}

// What fails before the first byte is a proper error past the store, too.
func TestRefusalPastTheStoreIsAnError(t *testing.T) {
	s := newShelf(t)
	_, url := s.serve(t, Options{})
	d := digest.FromString("unknown")
	s.full(t, d)
	s.sources[d] = storetest.Always(nil, storetest.Answer{Err: errGone})
	answer, body := get(t, "GET", url+"/v2/x/blobs/"+d.String())
	wantError(t, answer, body, 404, "BLOB_UNKNOWN")
}

// A store that can keep nothing is told in the metrics, and we stay ready.
func TestReadyWhileTheStoreCannotBeWritten(t *testing.T) {
	s := newShelf(t)
	_, url := s.serve(t, Options{})
	_, before := get(t, "GET", url+"/metrics")
	s.status = registry.Status{WritableReason: "no space left", Bypassed: 3}
	if answer, _ := get(t, "GET", url+"/readyz"); answer.StatusCode != 200 {
		t.Errorf("readyz says %d", answer.StatusCode)
	}
	_, after := get(t, "GET", url+"/metrics")
	for text, in := range map[string]string{
		"imagecache_store_writable 1\n": before, "imagecache_store_writable 0\n": after, "imagecache_bypassed_total 3\n": after,
	} {
		if !strings.Contains(in, text) {
			t.Errorf("the metrics lack %q", text)
		}
	}
}

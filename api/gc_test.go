package api

import (
	"strings"
	"testing"

	"github.com/imagecache/imagecache/registry"
)

func TestCollectIsAskedForByPost(t *testing.T) {
	s := newShelf(t)
	url := admin(t, s) + "/api/v1/gc"
	for body, want := range map[string]string{
		`{"dry_run":true}`: `{"dry_run":true,"leftovers":[],"evicted":[],"kept":[],"blobs":0,"bytes":7,"short":0,"unnamed":{"gone":0,"gone_bytes":0,"kept":0,"kept_bytes":0}}`,
		`{}`:               `{"dry_run":false,"leftovers":[],"evicted":[],"kept":[],"blobs":0,"bytes":7,"short":0,"unnamed":{"gone":0,"gone_bytes":0,"kept":0,"kept_bytes":0}}`,
	} {
		answer, got := post(t, url, body)
		if answer.StatusCode != 200 || strings.TrimSpace(got) != want {
			t.Errorf("%s: %d %s, want %s", body, answer.StatusCode, got, want)
		}
	}
	answer, got := post(t, url, `{"dryrun":true}`) // misspelt: it must not collect
	wantError(t, answer, got, 400, "REQUEST_INVALID")
	answer, got = get(t, "GET", url)
	wantError(t, answer, got, 405, "UNSUPPORTED")
	s.err = &registry.Error{Code: registry.CodeUnavailable, Message: "no"}
	if answer, got := post(t, url, `{}`); answer.StatusCode == 200 {
		t.Errorf("a failure is answered %d %s", answer.StatusCode, got)
	}
}

func TestEvictionsAreCounted(t *testing.T) {
	s := newShelf(t)
	s.status.Evictions, s.status.EvictedBytes = 3, 4096
	_, url := s.serve(t, Options{})
	_, body := get(t, "GET", url+"/metrics")
	for _, want := range []string{"imagecache_evictions_total 3\n", "imagecache_evicted_bytes_total 4096\n"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in the metrics", want)
		}
	}
}

package api

import (
	"fmt"
	"net/http"
	"testing"
)

func TestRangesAtTheEdge(t *testing.T) {
	s := newShelf(t)
	content := noise(1000)
	d := s.put(t, content)
	_, url := s.serve(t, Options{})
	for asked, want := range map[string]struct {
		status int
		ranges string
		length int64
	}{
		"":              {200, "", 1000},
		"chars=0-1":     {200, "", 1000},
		"bytes=0-0":     {206, "bytes 0-0/1000", 1},
		"bytes=-1":      {206, "bytes 999-999/1000", 1},
		"bytes=-5000":   {206, "bytes 0-999/1000", 1000},
		"bytes=-0":      {416, "bytes */1000", -1},
		"bytes=-000":    {416, "bytes */1000", -1},
		"bytes=1000-":   {416, "bytes */1000", -1},
		"bytes=5-2":     {416, "bytes */1000", -1},
		"bytes=nothing": {416, "bytes */1000", -1},
	} {
		r, _ := http.NewRequest("GET", url+"/v2/library/nginx/blobs/"+d.String()+"?ns=docker.io", nil)
		if asked != "" {
			r.Header.Set("Range", asked)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want.status || answer.Header.Get("Content-Range") != want.ranges || want.length >= 0 && answer.ContentLength != want.length {
			t.Errorf("Range %q: %d, Content-Range %q, length %d, want %v", asked, answer.StatusCode, answer.Header.Get("Content-Range"), answer.ContentLength, fmt.Sprint(want))
		}
	}
}

func TestTwoNamespacesAreRefused(t *testing.T) {
	s := newShelf(t)
	s.manifest("v1", "{}")
	_, url := s.serve(t, Options{})
	answer, err := http.Get(url + "/v2/library/nginx/manifests/v1?ns=docker.io&ns=quay.io")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusBadRequest {
		t.Errorf("%s", answer.Status)
	}
}

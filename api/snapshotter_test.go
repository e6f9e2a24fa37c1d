package api

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestTheSnapshotterIsInStatusAndMetrics(t *testing.T) {
	status := func() *SnapshotterStatus {
		return &SnapshotterStatus{Address: "/run/s.sock", Taken: 3, Reused: 4, Missed: map[string]int64{"parent": 5},
			Forms: map[string]int{"erofs": 6}, FormBytes: 7, Failed: map[string]int64{"space": 8}}
	}
	with := listen(t, New(Options{Registry: newShelf(t), Snapshotter: status}).Admin())
	without := listen(t, New(Options{Registry: newShelf(t)}).Admin())
	for path, wants := range map[string][]string{
		"/api/v1/status": {`"snapshotter":{"address":"/run/s.sock","taken":3,"reused":4,"missed":{"parent":5}`},
		"/metrics": {`imagecache_snapshotter_layers_taken_total{before="no"} 3`, `imagecache_snapshotter_layers_taken_total{before="yes"} 4`,
			`imagecache_snapshotter_layers_missed_total{reason="parent"} 5`, `imagecache_snapshotter_forms{kind="erofs"} 6`,
			`imagecache_snapshotter_form_bytes 7`, `imagecache_snapshotter_forms_failed_total{reason="space"} 8`},
	} {
		told := body(t, with+path)
		for _, want := range wants {
			if !strings.Contains(told, want) {
				t.Errorf("%s lacks %s:\n%s", path, want, told)
			}
		}
		if strings.Contains(body(t, without+path), "snapshotter") {
			t.Errorf("%s tells of a snapshotter where there is none", path)
		}
	}
}

func body(t *testing.T, url string) string {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	all, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(all)
}

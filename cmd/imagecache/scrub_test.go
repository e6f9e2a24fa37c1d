package main

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/imagecache/imagecache/layerstore"
)

// scrubOf runs the command against a daemon that answers as told.
func scrubOf(t *testing.T, answer string, args ...string) (status int, out, complaint, asked string) {
	t.Helper()
	daemon := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		_, _ = body.ReadFrom(r.Body)
		asked = r.Method + " " + r.URL.Path + " " + body.String()
		w.Header().Set("Content-Type", "application/x-ndjson")
		_, _ = w.Write([]byte(answer))
	}))
	defer daemon.Close()
	var stdout, stderr bytes.Buffer
	c := &cli{in: strings.NewReader(""), out: &stdout, err: &stderr}
	status = c.execute(context.Background(), append([]string{"scrub", "--admin", daemon.URL}, args...))
	return status, stdout.String(), stderr.String(), asked
}

const scrubProgress = `{"progress":{"reference":"","phase":"scrub","digest":"sha256:aa","blobs_done":1,"blobs_total":2,"bytes_done":1048576,"bytes_total":2097152}}` + "\n"

func TestScrubThatRepairedAll(t *testing.T) {
	status, out, complaint, asked := scrubOf(t, scrubProgress+
		`{"scrub":{"blobs":2,"bytes":2097152,"rotten":1,"repaired":1,"unrepaired":[]}}`+"\n", "--all")
	if status != exitDone || out != "read 2MiB in 2 blobs, 1 damaged, 1 fetched again\n" {
		t.Errorf("%d %q", status, out)
	}
	if asked != `POST /api/v1/scrub {"all":true}` {
		t.Errorf("asked %s", asked)
	}
	if !strings.Contains(complaint, "scrub  50%  1/2 blobs  1MiB/2MiB") {
		t.Errorf("no progress: %q", complaint)
	}
}

func TestScrubThatCouldNotRepair(t *testing.T) {
	const answer = `{"scrub":{"blobs":2,"bytes":9,"rotten":1,"repaired":0,"unrepaired":[` +
		`{"digest":"sha256:bb","size":9,"damage":"cut","reason":"upstream has no such blob","references":["docker.io/library/nginx:1"]}]}}` + "\n"
	status, out, complaint, _ := scrubOf(t, answer)
	if status != exitFailed || !strings.Contains(out, "sha256:bb") || !strings.Contains(out, "docker.io/library/nginx:1") {
		t.Errorf("%d %s", status, out)
	}
	if !strings.Contains(complaint, "1 damaged blob could not be fetched again") {
		t.Errorf("complaint %q", complaint)
	}
	status, out, _, _ = scrubOf(t, answer, "-o", "json")
	if status != exitFailed || !strings.Contains(out, `"unrepaired": [`) {
		t.Errorf("%d %s", status, out)
	}
}

func TestScrubThatBreaksOff(t *testing.T) {
	status, _, complaint, _ := scrubOf(t, scrubProgress)
	if status != exitFailed || !strings.Contains(complaint, "broke off") {
		t.Errorf("%d %q", status, complaint)
	}
	if status, _, _, _ := scrubOf(t, "", "everything"); status != exitMisuse {
		t.Errorf("an argument: %d", status)
	}
}

func TestSettingsOfProofs(t *testing.T) {
	c := &cli{environ: []string{"HOME=/nowhere"}}
	s := c.defaultSettings()
	if s.VerifyAfter != 7*24*time.Hour || s.ScrubRate != 8<<20 {
		t.Errorf("by default %s, %d", s.VerifyAfter, s.ScrubRate)
	}
	if _, err := s.readEnvironment([]string{"IMAGECACHE_STORE_VERIFY_AFTER=36h", "IMAGECACHE_STORE_SCRUB_RATE=0"}); err != nil {
		t.Fatal(err)
	}
	o := layerstore.Options{VerifyAfter: orNever(s.VerifyAfter), ScrubRate: orNever(s.ScrubRate)}
	if o.VerifyAfter != 36*time.Hour || o.ScrubRate >= 0 {
		t.Errorf("%+v", o)
	}
	if err := setScrubRate(s, "fast"); err == nil {
		t.Error("a rate that is none is taken")
	}
}

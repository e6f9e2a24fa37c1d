package api

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry"
	"github.com/imagecache/imagecache/registry/registrytest"
)

// agingHouse is a house whose clock can be set forward.
type agingHouse struct {
	*house
	root string
	late atomic.Int64 // ns
}

func newAgingHouse(t *testing.T) *agingHouse {
	t.Helper()
	h := &agingHouse{house: &house{upstream: registrytest.New(t, registrytest.Options{})}, root: filepath.Join(t.TempDir(), "root")}
	now := func() time.Time { return time.Now().Add(time.Duration(h.late.Load())) }
	store, err := layerstore.Open(layerstore.Options{Root: h.root, Now: now, StallAfter: stallAfter})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	upstreams := []registry.UpstreamOptions{{Name: h.upstream.Host(), URL: h.upstream.URL()}}
	reg, err := registry.New(registry.Options{Store: store, Path: filepath.Join(h.root, "registry.db"), Upstreams: upstreams, Open: true, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reg.Close() })
	server := New(Options{Registry: reg})
	h.mirror, h.admin = listen(t, server.Mirror()), listen(t, server.Admin())
	return h
}

// rotten is a layer that was pulled and has rotted in its middle.
func (h *agingHouse) rotten(t *testing.T) (layer []byte, url string) {
	t.Helper()
	layer = noise(3 << 20)
	h.upstream.AddImage("app", "v1", layer)
	if _, body := post(t, h.admin+"/api/v1/pull", `{"reference":"`+h.upstream.Host()+`/app:v1","platforms":["all"]}`); !strings.Contains(body, `{"image":`) {
		t.Fatal(body)
	}
	d := digest.FromBytes(layer)
	f, err := os.OpenFile(filepath.Join(h.root, "blobs", "sha256", d.Encoded()), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{^layer[len(layer)/2]}, int64(len(layer)/2)); err != nil {
		t.Fatal(err)
	}
	h.late.Store(int64(8 * 24 * time.Hour))
	return layer, h.url("blobs/" + d.String())
}

func TestRotIsCutAndRightAtTheNextTry(t *testing.T) {
	h := newAgingHouse(t)
	layer, url := h.rotten(t)
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() {
			if _, body, err := call(t, "GET", url); err == nil && body != string(layer) {
				t.Errorf("%d wrong bytes were completed", len(body))
			}
		})
	}
	clients.Wait()
	if answer, body := get(t, "GET", url); answer.StatusCode != 200 || body != string(layer) {
		t.Errorf("at the next try: %d, %d bytes", answer.StatusCode, len(body))
	}
	if sent := h.upstream.Sent("GET", "/blobs/"+digest.FromBytes(layer).String()); sent != 2*int64(len(layer)) {
		t.Errorf("upstream sent %d bytes, want the layer twice", sent)
	}
	for _, line := range []string{"imagecache_quarantined_total 1", "imagecache_unrepaired 0", "imagecache_scrubbed_bytes_total 0"} {
		h.awaitMetric(t, line)
	}
}

// awaitMetric waits for a line of the metrics: that a blob is sealed again is
// nothing a client waits for.
func (h *agingHouse) awaitMetric(t *testing.T, line string) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		_, metrics := get(t, "GET", h.admin+"/metrics")
		if strings.Contains(metrics, "\n"+line+"\n") {
			return
		}
		if time.Now().After(until) {
			t.Errorf("no %q in the metrics", line)
			return
		}
	}
}

func TestRangeOfRotThatHoldsTheLastByteIsRight(t *testing.T) {
	h := newAgingHouse(t)
	layer, url := h.rotten(t)
	// It is held until the blob is proven, and then comes from the new one.
	answer, body := get(t, "GET", url, "Range", "bytes=-10")
	if answer.StatusCode != http.StatusPartialContent || body != string(layer[len(layer)-10:]) {
		t.Errorf("%d %q", answer.StatusCode, body)
	}
}

func TestRangeOfRotIsCutByItsLastByte(t *testing.T) {
	h := newAgingHouse(t)
	layer, url := h.rotten(t)
	middle := int64(len(layer) / 2)
	// The whole range may come from the new blob, where nothing was sent yet.
	_, body, err := call(t, "GET", url, "Range", fmt.Sprintf("bytes=%d-%d", middle-1000, middle+1000))
	if err == nil && body != string(layer[middle-1000:middle+1001]) {
		t.Errorf("a wrong range of %d bytes was completed", len(body))
	}
	answer, body := get(t, "GET", url, "Range", "bytes=0-9,20-29")
	if answer.StatusCode == http.StatusOK && body != string(layer) {
		t.Errorf("%d wrong bytes were completed", len(body))
	}
}

func TestSpaceOfEverythingIsTold(t *testing.T) {
	h := newAgingHouse(t)
	_, url := h.rotten(t)
	_, _, _ = call(t, "GET", url) // into quarantine
	_, metrics := get(t, "GET", h.admin+"/metrics")
	for _, line := range []string{"imagecache_partial_idle_bytes 0", "imagecache_quarantine_bytes 3.1", "imagecache_form_bytes 0"} {
		if !strings.Contains(metrics, "\n"+line) {
			t.Errorf("no %q in the metrics", line)
		}
	}
	if _, body := get(t, "GET", h.admin+"/api/v1/df"); !strings.Contains(body, `"quarantine":1,"quarantine_bytes":31`) || !strings.Contains(body, `"form_bytes":0`) {
		t.Errorf("df answers %s", body)
	}
}

func TestScrubOverHTTP(t *testing.T) {
	h := newAgingHouse(t)
	layer, url := h.rotten(t)
	h.upstream.Add(registrytest.Rule{Path: "/blobs/", Lie: registrytest.Answer(404, "")})
	for _, want := range []string{`"repaired":0,"unrepaired":[{"digest":"` + digest.FromBytes(layer).String() + `"`, `"unrepaired":[]`} {
		answer, body := post(t, h.admin+"/api/v1/scrub", `{"all":true}`)
		wantHeader(t, answer, "Content-Type", "application/x-ndjson")
		lines := strings.Split(strings.TrimSpace(body), "\n")
		if last := lines[len(lines)-1]; !strings.HasPrefix(last, `{"scrub":{"blobs":`) || !strings.Contains(last, want) {
			t.Errorf("%s, want %s", last, want)
		}
		h.upstream.Heal()
	}
	if _, body, err := call(t, "GET", url); err != nil || body != string(layer) {
		t.Errorf("%d bytes, %v", len(body), err)
	}
	answer, body := post(t, h.admin+"/api/v1/scrub", `{"al":true}`)
	wantError(t, answer, body, 400, "REQUEST_INVALID")
}

func TestScrubThatBreaksOff(t *testing.T) {
	s := newShelf(t)
	url := admin(t, s) + "/api/v1/scrub"
	_, body := post(t, url, `{"all":true}`)
	var last struct{ Scrub registry.Scrubbed }
	if err := json.Unmarshal([]byte(body[strings.LastIndex(strings.TrimSpace(body), "\n")+1:]), &last); err != nil || last.Scrub.Blobs != 3 {
		t.Errorf("%s: %v", body, err)
	}
	s.err = io.ErrUnexpectedEOF
	_, body = post(t, url, `{}`)
	if !strings.Contains(body, "\n"+`{"error":{"code":"UNKNOWN"`) {
		t.Errorf("%s", body)
	}
}

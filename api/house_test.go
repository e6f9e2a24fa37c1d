package api

import (
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry"
	"github.com/imagecache/imagecache/registry/registrytest"
)

// house is a mirror and its administration on a real registry and store, with
// an upstream that can be told to lie.
type house struct {
	upstream      *registrytest.Registry
	folder        string // of the store, in root, and of registry.db
	server        *Server
	mirror, admin string
}

// stallAfter is longer than a busy machine makes any upstream of a test silent.
const stallAfter = time.Minute

func newHouse(t testing.TB, o registrytest.Options) *house {
	t.Helper()
	folder := t.TempDir()
	h := &house{upstream: registrytest.New(t, o), folder: folder}
	store, err := layerstore.Open(layerstore.Options{Root: filepath.Join(folder, "root"), StallAfter: stallAfter})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	// What comes before it is asked for is the registry's to test: here each answer says how it came.
	upstreams := []registry.UpstreamOptions{{Name: h.upstream.Host(), URL: h.upstream.URL(), NoReadAhead: true}}
	reg, err := registry.New(registry.Options{Store: store, Path: filepath.Join(folder, "registry.db"), Upstreams: upstreams, Open: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reg.Close() })
	h.server = New(Options{Registry: reg})
	h.mirror, h.admin = listen(t, h.server.Mirror()), listen(t, h.server.Admin())
	return h
}

// url is the containerd form of an address below a repository.
func (h *house) url(rest string) string {
	return h.mirror + "/v2/app/" + rest + "?ns=" + h.upstream.Host()
}

func TestSecondPullComesFromHere(t *testing.T) {
	h := newHouse(t, registrytest.Options{})
	layer := noise(3 << 20)
	image := h.upstream.AddImage("app", "v1", layer)
	d := digest.FromBytes(layer)
	manifest, blob := h.url("manifests/v1"), h.url("blobs/"+d.String())

	answer, body := get(t, "GET", manifest)
	if answer.StatusCode != 200 || digest.FromString(body) != image.Digest {
		t.Fatalf("manifest: %d %s", answer.StatusCode, body)
	}
	wantHeader(t, answer, "Cache-Status", "imagecache; fwd=miss; stored", "Docker-Content-Digest", image.Digest.String())
	answer, _ = get(t, "HEAD", blob)
	if gets := h.upstream.Count("GET", "/blobs/"+d.String()); answer.StatusCode != 200 || answer.ContentLength != int64(len(layer)) || gets != 0 {
		t.Errorf("HEAD of a cold blob: %d, length %d, %d transfers", answer.StatusCode, answer.ContentLength, gets)
	}
	answer, body = get(t, "GET", blob)
	if answer.StatusCode != 200 || body != string(layer) {
		t.Fatalf("blob: %d, %d bytes", answer.StatusCode, len(body))
	}
	wantHeader(t, answer, "Cache-Status", "imagecache; fwd=miss; stored")

	h.upstream.Stop()
	for _, url := range []string{manifest, h.url("manifests/" + image.Digest.String()), h.mirror + "/v2/" + h.upstream.Host() + "/app/manifests/v1"} {
		if answer, _ := get(t, "GET", url); answer.StatusCode != 200 || answer.Header.Get("Cache-Status") != "imagecache; hit" {
			t.Errorf("%s with a dead upstream: %d %s", url, answer.StatusCode, answer.Header.Get("Cache-Status"))
		}
	}
	if _, body := get(t, "GET", blob, "Range", "bytes=5-9"); body != string(layer[5:10]) {
		t.Errorf("range: %d bytes", len(body))
	}
}

func TestManyClientsAreOneTransfer(t *testing.T) {
	h := newHouse(t, registrytest.Options{})
	layer := noise(8 << 20)
	h.upstream.AddImage("app", "v1", layer)
	d := digest.FromBytes(layer)
	h.upstream.Add(registrytest.Rule{Path: "/blobs/" + d.String(), Lie: registrytest.Stall(1 << 20)})
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() {
			if _, body, err := call(t, "GET", h.url("blobs/"+d.String())); err != nil || body != string(layer) {
				t.Errorf("%d bytes, %v", len(body), err)
			}
		})
	}
	h.upstream.Wait(t, "GET", "/blobs/", 1)
	h.upstream.Heal()
	clients.Wait()
	if sent := h.upstream.Sent("GET", "/blobs/"); sent > int64(len(layer)) {
		t.Errorf("upstream sent %d bytes for a blob of %d", sent, len(layer))
	}
}

func TestUpstreamsRefusalKeepsItsMeaning(t *testing.T) {
	h := newHouse(t, registrytest.Options{Auth: registrytest.AuthBasic})
	h.upstream.AddImage("app", "v1", noise(100))
	answer, body := get(t, "GET", h.url("manifests/v1"))
	wantError(t, answer, body, 401, "UNAUTHORIZED")
	if scheme, _, _ := strings.Cut(answer.Header.Get("WWW-Authenticate"), " "); scheme != "Upstream" {
		t.Errorf("challenge %q", answer.Header.Get("WWW-Authenticate"))
	}
	answer, body = get(t, "GET", h.mirror+"/v2/app/manifests/v1?ns=unknown.example")
	wantError(t, answer, body, 404, "NAME_UNKNOWN")
}

func TestPinHoldsWhenTheTagMoves(t *testing.T) {
	h := newHouse(t, registrytest.Options{})
	old := h.upstream.AddImage("app", "v1", noise(1000))
	ref := h.upstream.Host() + "/app:v1"
	_, body := post(t, h.admin+"/api/v1/pins", `{"reference":"`+ref+`","platforms":["all"]}`)
	if !strings.Contains(body, `{"pin":{"reference":"`+ref+`"`) || !strings.Contains(body, old.Digest.String()) {
		t.Fatalf("pin: %s", body)
	}
	h.upstream.AddImage("app", "v1", noise(1000))
	answer, _ := get(t, "GET", h.url("manifests/v1"))
	wantHeader(t, answer, "Docker-Content-Digest", old.Digest.String(), "Cache-Status", "imagecache; hit; detail=pinned")
	answer, body = get(t, "DELETE", h.admin+"/api/v1/images?ref="+ref)
	wantError(t, answer, body, http.StatusConflict, "PINNED")
	if answer, _ := get(t, "DELETE", h.admin+"/api/v1/pins?ref="+ref); answer.StatusCode != http.StatusNoContent {
		t.Errorf("unpin: %d", answer.StatusCode)
	}
	_, body = post(t, h.admin+"/api/v1/pull", `{"reference":"`+h.upstream.Host()+`/app:absent"}`)
	if !strings.Contains(body, "MANIFEST_UNKNOWN") {
		t.Errorf("pull of what is not there: %s", body)
	}
}

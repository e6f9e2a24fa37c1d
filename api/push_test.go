package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry"
)

// home is a server that is pushed to, on a real registry and store.
type home struct {
	t        *testing.T
	folder   string
	url      string
	store    *layerstore.Store
	registry *registry.Registry

	upstreams []registry.UpstreamOptions
}

func newHome(t *testing.T) *home {
	h := &home{t: t, folder: t.TempDir()}
	h.start()
	t.Cleanup(h.stop)
	return h
}

func (h *home) start() {
	h.t.Helper()
	var err error
	if h.store, err = layerstore.Open(layerstore.Options{Root: filepath.Join(h.folder, "root"), Describe: registry.Describe}); err != nil {
		h.t.Fatal(err)
	}
	h.registry, err = registry.New(registry.Options{Store: h.store, Path: filepath.Join(h.folder, "registry.db"), Upstreams: h.upstreams, Open: true})
	if err != nil {
		h.t.Fatal(err)
	}
	h.url = listen(h.t, New(Options{Registry: h.registry, Push: true}).Mirror())
}

func (h *home) stop() {
	if err := h.registry.Close(); err != nil {
		h.t.Error(err)
	}
	if err := h.store.Close(); err != nil {
		h.t.Error(err)
	}
}

// do sends a request with a body; path begins behind /v2/, or is a Location.
func (h *home) do(method, path, body string, header ...string) (*http.Response, string) {
	h.t.Helper()
	if !strings.HasPrefix(path, "/v2/") {
		path = "/v2/" + path
	}
	return h.send(method, path, strings.NewReader(body), header...)
}

func (h *home) send(method, path string, body io.Reader, header ...string) (*http.Response, string) {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, h.url+path, body)
	if err != nil {
		h.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return res, string(content)
}

// want does a request that is to be answered with a status, and gives the answer.
func (h *home) want(status int, method, path, body string, header ...string) (*http.Response, string) {
	h.t.Helper()
	res, content := h.do(method, path, body, header...)
	if res.StatusCode != status {
		h.t.Fatalf("%s %s: %d %s, want %d", method, path, res.StatusCode, content, status)
	}
	return res, content
}

func (h *home) pushBlob(repository, content string) specs.Descriptor {
	h.t.Helper()
	d := digest.FromString(content)
	h.want(http.StatusCreated, "POST", repository+"/blobs/uploads/?digest="+d.String(), content)
	return specs.Descriptor{MediaType: specs.MediaTypeImageLayer, Digest: d, Size: int64(len(content))}
}

// pushImage pushes an image of one layer; change may make it an artifact.
func (h *home) pushImage(repository, reference, layer string, change func(*specs.Manifest)) (digest.Digest, string) {
	h.t.Helper()
	m := specs.Manifest{MediaType: specs.MediaTypeImageManifest, Layers: []specs.Descriptor{h.pushBlob(repository, layer)}}
	m.SchemaVersion = 2
	m.Config = h.pushBlob(repository, `{"os":"linux","architecture":"amd64"}`)
	m.Config.MediaType = specs.MediaTypeImageConfig
	if change != nil {
		change(&m)
	}
	content := encode(h.t, m)
	d := digest.FromString(content)
	if reference == "" {
		reference = d.String()
	}
	res, _ := h.want(http.StatusCreated, "PUT", repository+"/manifests/"+reference, content, "Content-Type", m.MediaType)
	wantHeader(h.t, res, "Docker-Content-Digest", d.String(), "Location", "/v2/"+repository+"/manifests/"+d.String())
	return d, content
}

func encode(t *testing.T, v any) string {
	t.Helper()
	content, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestPushedIsServed(t *testing.T) {
	h := newHome(t)
	d, content := h.pushImage("local/team/app", "v1", "a layer", nil)
	for _, reference := range []string{"v1", d.String()} {
		res, got := h.want(200, "GET", "local/team/app/manifests/"+reference, "")
		if got != content {
			t.Errorf("%s: %q", reference, got)
		}
		wantHeader(t, res, "Docker-Content-Digest", d.String(), "Content-Type", specs.MediaTypeImageManifest, "Cache-Status", "imagecache; hit")
	}
	layer := digest.FromString("a layer").String()
	if _, got := h.want(200, "GET", "local/team/app/blobs/"+layer, ""); got != "a layer" {
		t.Errorf("layer: %q", got)
	}
	// Not by knowing a digest, and not on Docker Hub.
	h.want(404, "GET", "local/other/blobs/"+layer, "")
	h.want(404, "GET", "local/other/manifests/"+d.String(), "")
	h.want(200, "HEAD", "team/app/manifests/v1?ns=local", "")
}

// TestUploads goes the ways of distribution-spec, "Pushing Blobs".
func TestUploads(t *testing.T) {
	h := newHome(t)
	content := string(noise(3 << 20))
	d := digest.FromString(content)
	begin := func() string {
		res, _ := h.want(202, "POST", "local/app/blobs/uploads/", "")
		return res.Header.Get("Location")
	}
	t.Run("whole", func(t *testing.T) {
		res, _ := h.want(201, "PUT", begin()+"?digest="+d.String(), content, "Content-Type", "application/octet-stream")
		wantHeader(t, res, "Location", "/v2/local/app/blobs/"+d.String(), "Docker-Content-Digest", d.String())
	})
	t.Run("sha512", func(t *testing.T) {
		long := digest.SHA512.FromString(content)
		h.want(201, "PUT", begin()+"?digest="+long.String(), content)
		if _, got := h.want(200, "GET", "local/app/blobs/"+long.String(), ""); got != content {
			t.Errorf("%d bytes", len(got))
		}
	})
	t.Run("in pieces, over a restart", func(t *testing.T) {
		at := begin()
		res, _ := h.want(202, "PATCH", at, content[:1000], "Content-Range", "0-999")
		wantHeader(t, res, "Range", "0-999")
		res, body := h.do("PATCH", at, content[2000:3000], "Content-Range", "2000-2999")
		wantError(t, res, body, 416, "BLOB_UPLOAD_INVALID")
		h.stop()
		h.start()
		res, _ = h.want(204, "GET", at, "")
		wantHeader(t, res, "Range", "0-999", "Location", at)
		h.want(202, "PATCH", at, content[1000:2000]) // a stream says no range
		h.want(201, "PUT", at+"?digest="+d.String(), content[2000:], "Content-Range", fmt.Sprintf("2000-%d", len(content)-1))
		res, body = h.do("GET", at, "")
		wantError(t, res, body, 404, "BLOB_UPLOAD_UNKNOWN")
	})
	t.Run("cancelled", func(t *testing.T) {
		at := begin()
		h.want(202, "PATCH", at, "abc")
		h.want(204, "DELETE", at, "")
		res, body := h.do("PATCH", at, "def")
		wantError(t, res, body, 404, "BLOB_UPLOAD_UNKNOWN")
	})
	t.Run("of another repository", func(t *testing.T) {
		at := strings.Replace(begin(), "local/app", "local/other", 1)
		res, body := h.do("PATCH", at, "abc")
		wantError(t, res, body, 404, "BLOB_UPLOAD_UNKNOWN")
	})
	t.Run("wrong digest", func(t *testing.T) {
		other := digest.FromString("other")
		res, body := h.do("PUT", begin()+"?digest="+other.String(), content)
		wantError(t, res, body, 400, "DIGEST_INVALID")
		res, body = h.do("PUT", begin()+"?digest=sha256:short", content)
		wantError(t, res, body, 400, "DIGEST_INVALID")
		res, body = h.do("PUT", begin(), content)
		wantError(t, res, body, 400, "DIGEST_INVALID")
		h.want(404, "HEAD", "local/app/blobs/"+other.String(), "")
	})
	if left, err := h.store.Ingests(); err != nil || len(left) != 3 { // of the last two parts of this test
		t.Errorf("%d uploads are left, %v", len(left), err)
	}
}

func TestMount(t *testing.T) {
	h := newHome(t)
	layer := h.pushBlob("local/app", "a layer").Digest.String()
	mount := "local/b/blobs/uploads/?mount=" + layer
	res, _ := h.want(201, "POST", mount+"&from=local/app", "")
	wantHeader(t, res, "Location", "/v2/local/b/blobs/"+layer)
	h.want(200, "GET", "local/b/blobs/"+layer, "")
	for _, from := range []string{"local/empty", "..", "nowhere.example/app"} {
		h.want(202, "POST", strings.Replace(mount, "/b/", "/c/", 1)+"&from="+from, "")
	}
	h.want(404, "HEAD", "local/c/blobs/"+layer, "")
	// The other repository's blob is not the first one's.
	h.want(202, "DELETE", "local/app/blobs/"+layer, "")
	h.want(404, "HEAD", "local/app/blobs/"+layer, "")
	h.want(200, "HEAD", "local/b/blobs/"+layer, "")
}

func TestReferrersOfPushed(t *testing.T) {
	h := newHome(t)
	// The subject may come after what refers to it.
	subject := specs.Descriptor{MediaType: specs.MediaTypeImageManifest, Digest: digest.FromString("later"), Size: 5}
	sbom, _ := h.pushImage("local/app", "", "an sbom", func(m *specs.Manifest) {
		m.Subject, m.ArtifactType, m.Annotations = &subject, "application/sbom", map[string]string{"a": "b"}
	})
	signature, content := h.pushImage("local/app", "", "a signature", func(m *specs.Manifest) {
		m.Subject = &subject
		m.Config.MediaType = "application/signature"
	})
	res, _ := h.want(201, "PUT", "local/app/manifests/"+signature.String(), content, "Content-Type", specs.MediaTypeImageManifest)
	wantHeader(t, res, "OCI-Subject", subject.Digest.String())
	var index specs.Index
	list := func(query string) []specs.Descriptor {
		res, body := h.want(200, "GET", "local/app/referrers/"+subject.Digest.String()+query, "")
		wantHeader(t, res, "Content-Type", specs.MediaTypeImageIndex)
		index = specs.Index{}
		if err := json.Unmarshal([]byte(body), &index); err != nil {
			t.Fatal(err)
		}
		return index.Manifests
	}
	if got := list(""); len(got) != 2 {
		t.Errorf("%d referrers", len(got))
	}
	got := list("?artifactType=application/sbom")
	if len(got) != 1 || got[0].Digest != sbom || got[0].Annotations["a"] != "b" {
		t.Errorf("%+v", got)
	}
	if got := list("?artifactType=application/signature"); len(got) != 1 || got[0].Digest != signature {
		t.Errorf("the config's type is the artifact's: %+v", got)
	}
	h.want(202, "DELETE", "local/app/manifests/"+sbom.String(), "")
	if got := list(""); len(got) != 1 {
		t.Errorf("%d referrers after a deletion", len(got))
	}
}

func TestTagsCatalogAndDeletion(t *testing.T) {
	h := newHome(t)
	d, content := h.pushImage("local/app", "a", "one", nil)
	for _, tag := range []string{"c", "b"} {
		h.want(201, "PUT", "local/app/manifests/"+tag, content, "Content-Type", specs.MediaTypeImageManifest)
	}
	h.pushImage("local/app-x", "v1", "two", nil)
	res, body := h.want(200, "GET", "local/app/tags/list?n=2", "")
	wantHeader(t, res, "Link", `</v2/local/app/tags/list?last=b&n=2>; rel="next"`)
	if body != `{"name":"local/app","tags":["a","b"]}`+"\n" {
		t.Error(body)
	}
	if _, body = h.want(200, "GET", "_catalog?n=1", ""); body != `{"repositories":["local/app"]}`+"\n" {
		t.Error(body)
	}
	if _, body = h.want(200, "GET", "_catalog?last=local/app", ""); body != `{"repositories":["local/app-x"]}`+"\n" {
		t.Error(body)
	}
	h.want(202, "DELETE", "local/app/manifests/b", "")
	h.want(404, "GET", "local/app/manifests/b", "")
	h.want(200, "GET", "local/app/manifests/a", "")
	h.want(202, "DELETE", "local/app/manifests/"+d.String(), "")
	for _, reference := range []string{"a", "c", d.String()} {
		res, body := h.do("GET", "local/app/manifests/"+reference, "")
		wantError(t, res, body, 404, "MANIFEST_UNKNOWN")
	}
	h.want(404, "DELETE", "local/app/manifests/"+d.String(), "")
	h.want(404, "DELETE", "local/app/manifests/a", "")
	res, body = h.do("GET", "local/nothing/tags/list", "")
	wantError(t, res, body, 404, "NAME_UNKNOWN")
}

func TestManifestsThatAreRefused(t *testing.T) {
	h := newHome(t)
	blob := h.pushBlob("local/app", "here")
	absent := specs.Descriptor{MediaType: specs.MediaTypeImageLayer, Digest: digest.FromString("absent"), Size: 6}
	image := func(layers ...specs.Descriptor) string {
		m := specs.Manifest{MediaType: specs.MediaTypeImageManifest, Config: blob, Layers: layers}
		m.SchemaVersion = 2
		return encode(t, m)
	}
	for name, c := range map[string]struct {
		content, reference string
		status             int
		code               string
	}{
		"no JSON":         {"{", "v1", 400, "MANIFEST_INVALID"},
		"both kinds":      {`{"schemaVersion":2,"layers":[],"manifests":[]}`, "v1", 400, "MANIFEST_INVALID"},
		"absent layer":    {image(absent), "v1", 400, "MANIFEST_BLOB_UNKNOWN"},
		"another digest":  {image(), absent.Digest.String(), 400, "DIGEST_INVALID"},
		"an odd tag":      {image(), ".v1", 400, "TAG_INVALID"},
		"larger than fit": {strings.Repeat(" ", maxManifest+1), "v1", 413, "MANIFEST_INVALID"},
	} {
		t.Run(name, func(t *testing.T) {
			res, body := h.do("PUT", "local/app/manifests/"+c.reference, c.content, "Content-Type", specs.MediaTypeImageManifest)
			wantError(t, res, body, c.status, c.code)
		})
	}
	foreign := absent
	foreign.MediaType = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
	h.want(201, "PUT", "local/app/manifests/foreign", image(foreign), "Content-Type", specs.MediaTypeImageManifest)
	h.want(201, "PUT", "local/app/manifests/none", image(), "Content-Type", specs.MediaTypeImageManifest)
	index := specs.Index{MediaType: specs.MediaTypeImageIndex, Manifests: []specs.Descriptor{{MediaType: specs.MediaTypeImageManifest, Digest: absent.Digest, Size: 6}}}
	index.SchemaVersion = 2
	res, _ := h.want(201, "PUT", "local/app/manifests/sparse", encode(t, index), "Content-Type", specs.MediaTypeImageIndex)
	wantHeader(t, res, "Warning", `299 - "1 of the manifests that this index names are not in the repository"`)
}

func TestNothingIsPushedToUpstreams(t *testing.T) {
	h := newHome(t)
	for _, path := range []string{"library/app/manifests/v1", "local/app/manifests/v1?ns=docker.io", "ghcr.io/local/app/manifests/v1"} {
		res, body := h.do("PUT", path, "{}")
		wantError(t, res, body, 405, "UNSUPPORTED")
		if wantHeader(t, res, "Allow", "GET, HEAD"); !strings.Contains(body, "local/") {
			t.Errorf("%s: %s does not say where else to push", path, body)
		}
	}
	closed := listen(t, New(Options{Registry: h.registry}).Mirror())
	answer, body := get(t, "POST", closed+"/v2/local/app/blobs/uploads/")
	wantError(t, answer, body, 403, "DENIED")
	answer, body = get(t, "POST", h.url+"/v2/local/app/blobs/uploads/", "Sec-Fetch-Site", "cross-site")
	wantError(t, answer, body, 403, "DENIED")
}

// TestPushedOutlivesEverything: what was pushed is nowhere else, so it stays
// over restarts, without room, and without its databases.
func TestPushedOutlivesEverything(t *testing.T) {
	h := newHome(t)
	_, content := h.pushImage("local/app", "v1", "a layer", nil)
	subject := specs.Descriptor{MediaType: specs.MediaTypeImageManifest, Digest: digest.FromString(content), Size: int64(len(content))}
	h.pushImage("local/app", "", "an sbom", func(m *specs.Manifest) { m.Subject = &subject })
	check := func(when string) {
		t.Helper()
		if _, got := h.want(200, "GET", "local/app/manifests/v1", ""); got != content {
			t.Errorf("%s: %q", when, got)
		}
		h.want(200, "GET", "local/app/blobs/"+digest.FromString("a layer").String(), "")
		if _, list := h.want(200, "GET", "local/app/referrers/"+subject.Digest.String(), ""); strings.Count(list, `"digest"`) != 1 {
			t.Errorf("%s: referrers: %s", when, list)
		}
		h.want(404, "GET", "local/other/blobs/"+digest.FromString("a layer").String(), "")
	}
	h.stop()
	h.start()
	check("after a restart")
	for _, files := range [][]string{{"registry.db"}, {"root/layerstore.db"}, {"registry.db", "root/layerstore.db"}} {
		h.stop()
		for _, file := range files {
			if err := os.Remove(filepath.Join(h.folder, file)); err != nil {
				t.Fatal(err)
			}
		}
		h.start()
		check("without " + strings.Join(files, " and "))
	}
	if _, err := h.store.Collect(t.Context(), layerstore.CollectOptions{Need: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	check("with no room")
}

// A client that has ended its own half of the connection still reads: silence
// would reach it as a 200.
func TestABodyThatBreaksOffIsNoSuccess(t *testing.T) {
	h := newHome(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v2/local/app/blobs/uploads/?digest=%s HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf", digest.FromString("half done"))
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil || bytes.HasPrefix(answer, []byte("HTTP/1.1 2")) {
		t.Errorf("%q, %v; want no success", answer, err)
	}
}

func TestAnUploadThatIsCancelledMeanwhileIsUnknown(t *testing.T) {
	h := newHome(t)
	res, _ := h.want(http.StatusAccepted, "POST", "local/app/blobs/uploads/", "")
	location := res.Header.Get("Location")
	body, send := io.Pipe()
	defer body.Close()
	req, err := http.NewRequestWithContext(t.Context(), "PATCH", h.url+location, body)
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan int, 1)
	go func() {
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			answered <- 0
			return
		}
		res.Body.Close()
		answered <- res.StatusCode
	}()
	if _, err := send.Write([]byte("first")); err != nil {
		t.Fatal(err)
	}
	comesTrue(t, func() bool {
		res, _ := h.want(http.StatusNoContent, "GET", location, "")
		return res.Header.Get("Range") == "0-4"
	})
	h.want(http.StatusNoContent, "DELETE", location, "")
	send.Write([]byte("second")) // the client may have been answered before it has sent this
	send.Close()
	if status := <-answered; status != http.StatusNotFound {
		t.Errorf("%d, want 404", status)
	}
}

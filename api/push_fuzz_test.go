package api

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry"
)

// fuzzServer is a server with a home, without a network.
func fuzzServer(f *testing.F) *Server {
	f.Helper()
	folder := f.TempDir()
	store, err := layerstore.Open(layerstore.Options{Root: filepath.Join(folder, "root"), Describe: registry.Describe})
	if err != nil {
		f.Fatal(err)
	}
	r, err := registry.New(registry.Options{Store: store, Path: filepath.Join(folder, "registry.db"), Open: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := r.Close(); err != nil {
			f.Error(err)
		}
		if err := store.Close(); err != nil {
			f.Error(err)
		}
	})
	return New(Options{Registry: r, Push: true})
}

// exchange gives a handler one request. The path is not cleaned.
func exchange(h http.Handler, method, path string, body []byte, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://cache.test/", bytes.NewReader(body))
	path, r.URL.RawQuery, _ = strings.Cut(path, "?")
	r.URL.Path = path
	for i := 0; i+1 < len(header); i += 2 {
		r.Header[header[i]] = []string{header[i+1]}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// FuzzUpload sends two pieces of an upload: whatever is taken is what a client
// gets back, the range that is told is what came, and nothing is our mistake.
func FuzzUpload(f *testing.F) {
	h := fuzzServer(f).Mirror()
	for _, span := range []string{"", "0-2", "1-3", "0-99", "bytes 0-2/9", "0--1", "-1-2", "9223372036854775807-0", "0-9223372036854775807", " 0 - 2 ", "0-2,3-4", "0x0-2"} {
		f.Add(span, []byte("abc"), "3-5", []byte("def"))
	}
	f.Add("", []byte{}, "0-0", []byte{0})
	f.Fuzz(func(t *testing.T, span string, first []byte, next string, second []byte) {
		at := exchange(h, "POST", "/v2/local/app/blobs/uploads/", nil).Header().Get("Location")
		var came []byte
		for _, piece := range []struct {
			span string
			body []byte
		}{{span, first}, {next, second}} {
			w := exchange(h, "PATCH", at, piece.body, "Content-Range", piece.span)
			switch {
			case w.Code == http.StatusAccepted:
				came = append(came, piece.body...)
			case w.Code == http.StatusBadRequest: // not as long as its range says
			case w.Code != http.StatusRequestedRangeNotSatisfiable:
				t.Fatalf("Content-Range %q of %d bytes: %d %s", piece.span, len(piece.body), w.Code, w.Body)
			}
			w = exchange(h, "GET", at, nil)
			if want := "0-" + strconv.Itoa(max(len(came)-1, 0)); w.Code != http.StatusNoContent || w.Header().Get("Range") != want {
				t.Fatalf("after Content-Range %q: %d, Range %q, want %q", piece.span, w.Code, w.Header().Get("Range"), want)
			}
		}
		d := digest.FromBytes(came)
		w := exchange(h, "PUT", at+"?digest="+d.String(), nil)
		if w.Code != http.StatusCreated {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if got := exchange(h, "GET", w.Header().Get("Location"), nil); !bytes.Equal(got.Body.Bytes(), came) {
			t.Fatalf("%d bytes of %d", got.Body.Len(), len(came))
		}
	})
}

// FuzzBlobRange asks for ranges of a blob: what is answered is a part of it.
func FuzzBlobRange(f *testing.F) {
	h := fuzzServer(f).Mirror()
	content := noise(2048)
	path := "/v2/local/app/blobs/" + digest.FromBytes(content).String()
	exchange(h, "POST", "/v2/local/app/blobs/uploads/?digest="+digest.FromBytes(content).String(), content)
	for _, spec := range []string{"bytes=0-0", "bytes=500-", "bytes=-500", "bytes=-0", "bytes=5-2", "bytes=0-1,4-5", "bytes=,", "lines=1-2", "bytes", "bytes=99999999999999999999-", "bytes=0-1, -1", "bytes=--1"} {
		f.Add(spec, "")
		f.Add(spec, `"`+digest.FromBytes(content).String()+`"`)
	}
	f.Fuzz(func(t *testing.T, spec, ifRange string) {
		w := exchange(h, "GET", path, nil, "Range", spec, "If-Range", ifRange)
		body := w.Body.Bytes()
		switch w.Code {
		case http.StatusOK:
			if !bytes.Equal(body, content) {
				t.Fatalf("%q: %d bytes", spec, len(body))
			}
		case http.StatusPartialContent:
			multipart := strings.HasPrefix(w.Header().Get("Content-Type"), "multipart/")
			if !multipart && (len(body) == 0 || !bytes.Contains(content, body)) {
				t.Fatalf("%q: %d bytes of something else, %q", spec, len(body), w.Header().Get("Content-Range"))
			}
		case http.StatusRequestedRangeNotSatisfiable, http.StatusPreconditionFailed:
		default:
			t.Fatalf("%q: %d %s", spec, w.Code, body)
		}
	})
}

// FuzzManifestPush sends anything as a manifest: it is the client's mistake, or
// it is given back to the byte.
func FuzzManifestPush(f *testing.F) {
	h := fuzzServer(f).Mirror()
	empty := digest.FromString("{}").String()
	exchange(h, "POST", "/v2/local/app/blobs/uploads/?digest="+empty, []byte("{}"))
	image := `{"schemaVersion":2,"mediaType":"` + specs.MediaTypeImageManifest + `","config":{"mediaType":"` + specs.MediaTypeEmptyJSON + `","digest":"` + empty + `","size":2},"layers":[]`
	for _, content := range []string{
		image + `}`, image + `,"subject":{"digest":"` + empty + `","size":2}}`, image + `,"subject":{"digest":"x"}}`, image + `,"manifests":[]}`, image + `,"layers":null}`,
		`{"schemaVersion":2,"manifests":null}`, `{"schemaVersion":2,"manifests":[{"digest":"` + empty + `","size":-1}]}`, `{"schemaVersion":1}`, `{}`, `null`, `[]`, "", `{"mediaType":"a;b"}`,
		`{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"sha256:` + strings.Repeat("A", 64) + `"}]}`, strings.Repeat("[", 20_000),
	} {
		f.Add([]byte(content), specs.MediaTypeImageManifest, "v1")
		f.Add([]byte(content), "", digest.FromString(content).String())
		f.Add([]byte(content), specs.MediaTypeImageIndex, "v1?tag=v2")
	}
	f.Fuzz(func(t *testing.T, content []byte, mediaType, reference string) {
		if strings.Contains(reference, "/") { // another path, which FuzzParse has
			return
		}
		w := exchange(h, "PUT", "/v2/local/app/manifests/"+reference, content, "Content-Type", mediaType)
		if w.Code/100 == 4 {
			return
		}
		if w.Code != http.StatusCreated {
			t.Fatalf("%q as %q to %q: %d %s", content, mediaType, reference, w.Code, w.Body)
		}
		at, err := url.Parse(w.Header().Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		if got := exchange(h, "GET", at.Path, nil); !bytes.Equal(got.Body.Bytes(), content) {
			t.Fatalf("%q came back as %q", content, got.Body)
		}
		if got := exchange(h, "GET", "/v2/local/app/referrers/"+empty, nil); got.Code != http.StatusOK {
			t.Fatalf("referrers: %d %s", got.Code, got.Body)
		}
	})
}

// FuzzAdministration sends anything to everything that takes a body: 5xx is
// for what goes wrong here, and a body cannot make that happen.
func FuzzAdministration(f *testing.F) {
	h := fuzzServer(f).Admin()
	paths := []string{"pins", "pull", "scrub", "gc", "pins/apply", "pins/rollback", "pins/update", "match", "export", "import", "mounts"}
	for i := range paths {
		for _, body := range []string{
			`{"reference":"local/app:v1","platforms":["linux/amd64"]}`, `{"reference":"local/app@sha256:x"}`, `{"reference":""}`, `{"platforms":["/"]}`, `{"all":true}`, `{"dryRun":true}`,
			`{"digests":[{"digest":"` + sha256d + `","size":5}]}`, `{"digests":[{"digest":"x","size":-5}]}`, `{"references":["local/app:v1"]}`,
			`[]`, `null`, ``, `{"reference":1}`, `{"reference":"a"}{"reference":"b"}`, "version = 1\n", strings.Repeat("[", 20_000),
		} {
			f.Add(uint8(i), []byte(body), "application/json")
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte, mediaType string) {
		path := "/api/v1/" + paths[int(which)%len(paths)]
		w := exchange(h, "POST", path, body, "Content-Type", mediaType)
		if w.Code == http.StatusInternalServerError {
			t.Fatalf("%s %q: %d %s", path, body, w.Code, w.Body)
		}
	})
}

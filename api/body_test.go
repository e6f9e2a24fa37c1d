package api

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/registry"
)

// noise is n bytes that no two blobs share.
func noise(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func TestSealedBlobIsServedWholeAndInParts(t *testing.T) {
	s := newShelf(t)
	content := noise(10 << 20) // more than two runs
	d := s.put(t, content)
	_, url := s.serve(t, Options{})
	url += "/v2/x/blobs/" + d.String()
	etag := `"` + d.String() + `"`
	for _, c := range []struct {
		name   string
		header []string
		status int
		want   []byte
		ranged string
	}{
		{"whole", nil, 200, content, ""},
		{"middle", []string{"Range", "bytes=1000-5000000"}, 206, content[1000:5000001], "bytes 1000-5000000/10485760"},
		{"open end", []string{"Range", "bytes=10485000-"}, 206, content[10485000:], "bytes 10485000-10485759/10485760"},
		{"suffix", []string{"Range", "bytes=-5"}, 206, content[len(content)-5:], "bytes 10485755-10485759/10485760"},
		{"same", []string{"Range", "bytes=0-3", "If-Range", etag}, 206, content[:4], "bytes 0-3/10485760"},
		{"changed", []string{"Range", "bytes=0-3", "If-Range", `"other"`}, 200, content, ""},
		{"known", []string{"If-None-Match", etag}, 304, nil, ""},
	} {
		answer, body := get(t, "GET", url, c.header...)
		if answer.StatusCode != c.status || body != string(c.want) {
			t.Errorf("%s: %d and %d bytes, want %d and %d", c.name, answer.StatusCode, len(body), c.status, len(c.want))
		}
		wantHeader(t, answer, "Content-Range", c.ranged, "Docker-Content-Digest", d.String(), "Etag", etag)
		if c.status != 304 {
			wantHeader(t, answer, "Accept-Ranges", "bytes", "Content-Type", blobType)
			if answer.ContentLength != int64(len(c.want)) {
				t.Errorf("%s: Content-Length %d", c.name, answer.ContentLength)
			}
		}
	}
	answer, body := get(t, "GET", url, "Range", "bytes=10485760-")
	wantError(t, answer, body, 416, "SIZE_INVALID")
	wantHeader(t, answer, "Content-Range", "bytes */10485760")
	answer, body = get(t, "GET", url, "Range", "bytes=x")
	wantError(t, answer, body, 416, "SIZE_INVALID")
}

func TestSeveralRangesComeAsParts(t *testing.T) {
	s := newShelf(t)
	content := noise(1 << 20)
	d := s.put(t, content)
	_, url := s.serve(t, Options{})
	answer, body := get(t, "GET", url+"/v2/x/blobs/"+d.String(), "Range", "bytes=0-9,500000-599999")
	kind, params, _ := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	if answer.StatusCode != 206 || kind != "multipart/byteranges" {
		t.Fatalf("%d %s", answer.StatusCode, kind)
	}
	parts := multipart.NewReader(strings.NewReader(body), params["boundary"])
	for _, want := range [][]byte{content[:10], content[500000:600000]} {
		part, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(part); !bytes.Equal(got, want) || part.Header.Get("Content-Type") != blobType {
			t.Errorf("%s: %d other bytes", part.Header.Get("Content-Range"), len(got))
		}
	}
}

func TestHeadOfABlobTellsItsSize(t *testing.T) {
	s := newShelf(t)
	d := s.put(t, []byte("twelve bytes"))
	_, url := s.serve(t, Options{})
	answer, body := get(t, "HEAD", url+"/v2/x/blobs/"+d.String(), "Range", "bytes=2-3")
	if answer.StatusCode != 200 || body != "" {
		t.Errorf("%d %q", answer.StatusCode, body)
	}
	wantHeader(t, answer, "Content-Length", "12", "Docker-Content-Digest", d.String(), "Accept-Ranges", "bytes",
		"Content-Type", blobType, "Cache-Status", "imagecache; hit")
	answer, _ = get(t, "HEAD", url+"/v2/x/blobs/"+sha256d)
	if answer.StatusCode != 404 {
		t.Errorf("absent: %d", answer.StatusCode)
	}
}

func TestClientFollowsATransfer(t *testing.T) {
	s := newShelf(t)
	content := noise(1 << 20)
	d := digest.FromBytes(content)
	f := newFeed(int64(len(content)))
	s.sources[d] = f
	_, url := s.serve(t, Options{})
	half := len(content) / 2
	go f.writer.Write(content[:half])
	answer, err := http.Get(url + "/v2/x/blobs/" + d.String())
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	wantHeader(t, answer, "Cache-Status", "imagecache; fwd=miss", "Age", "")
	got := make([]byte, len(content))
	if _, err := io.ReadFull(answer.Body, got[:half]); err != nil {
		t.Fatal(err) // before the second half was there
	}
	go func() { f.writer.Write(content[half:]); f.writer.Close() }()
	if _, err := io.ReadFull(answer.Body, got[half:]); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("second half: %v, same bytes: %v", err, bytes.Equal(got, content))
	}
}

func TestBodyIsCutWhenTheTransferFails(t *testing.T) {
	content := noise(1 << 20)
	wrong := append(noise(1), content[1:]...)
	wrong[0] ^= content[0] ^ 0xff // surely another first byte
	for name, c := range map[string]struct {
		send []byte
		end  error
	}{
		"midway":      {content[:len(content)/2], errGone},
		"wrong bytes": {wrong, nil},
	} {
		for _, header := range [][]string{nil, {"Range", "bytes=10-"}, {"Range", "bytes=0-9,20-"}} {
			s := newShelf(t)
			d := digest.FromBytes(content)
			f := newFeed(int64(len(content)))
			s.sources[d] = f
			_, url := s.serve(t, Options{})
			go func() { f.writer.Write(c.send); f.writer.CloseWithError(c.end) }()
			answer, body, err := call(t, "GET", url+"/v2/x/blobs/"+d.String(), header...)
			if err == nil && answer.StatusCode >= http.StatusBadRequest {
				continue // it had failed before the first byte was sent
			}
			if err == nil {
				t.Errorf("%s %v: ended cleanly with %d and %d bytes", name, header, answer.StatusCode, len(body))
			} else if answer != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s %v: %v", name, header, err)
			}
		}
	}
}

func TestTransferThatFailsBeforeItsFirstByteIsAnError(t *testing.T) {
	s := newShelf(t)
	content := noise(1000)
	d := digest.FromBytes(content)
	f := newFeed(1000)
	f.refuse = &registry.Error{Code: registry.CodeDenied, Message: "upstream refuses this"}
	s.sources[d] = f
	_, url := s.serve(t, Options{})
	f.writer.CloseWithError(io.ErrUnexpectedEOF)
	answer, body := get(t, "GET", url+"/v2/x/blobs/"+d.String())
	wantError(t, answer, body, 403, "DENIED")
	wantHeader(t, answer, "Etag", "", "Docker-Content-Digest", "", "Cache-Status", "", "Accept-Ranges", "")
}

func TestEmptyBlobIsServedOnlyWhenItIsEmpty(t *testing.T) {
	s := newShelf(t)
	d := s.put(t, nil)
	_, url := s.serve(t, Options{})
	if answer, body := get(t, "GET", url+"/v2/x/blobs/"+d.String()); answer.StatusCode != 200 || body != "" || answer.ContentLength != 0 {
		t.Errorf("%d, %q, length %d", answer.StatusCode, body, answer.ContentLength)
	}
	f := newFeed(0)
	f.writer.Close()
	s.sources[digest.FromString("not empty")] = f
	answer, body := get(t, "GET", url+"/v2/x/blobs/"+digest.FromString("not empty").String())
	wantError(t, answer, body, 502, "UNAVAILABLE")
}

// spy notes what a ResponseWriter's ReadFrom is given: only a file within a
// limited reader is sent by the kernel.
type spy struct {
	*httptest.ResponseRecorder
	files, others int
}

func (s *spy) ReadFrom(src io.Reader) (int64, error) {
	if limited, ok := src.(*io.LimitedReader); ok {
		if _, ok := limited.R.(*os.File); ok {
			s.files++
			return io.Copy(s.ResponseRecorder, src)
		}
	}
	s.others++
	return io.Copy(s.ResponseRecorder, src)
}

func TestBlobsReachTheKernelAsFiles(t *testing.T) {
	s := newShelf(t)
	content := noise(9 << 20)
	sealed := s.put(t, content)
	coming := noise(1 << 20)
	f := newFeed(int64(len(coming)))
	s.sources[digest.FromBytes(coming)] = f
	go func() { f.writer.Write(coming); f.writer.Close() }()
	mirror := New(Options{Registry: s}).Mirror()
	for _, d := range []digest.Digest{sealed, digest.FromBytes(coming)} {
		w := &spy{ResponseRecorder: httptest.NewRecorder()}
		mirror.ServeHTTP(w, httptest.NewRequest("GET", "/v2/x/blobs/"+d.String(), nil))
		if digest.FromBytes(w.Body.Bytes()) != d {
			t.Errorf("%s: other bytes, status %d", d, w.Code)
		}
		if w.files == 0 || w.others != 0 {
			t.Errorf("%s: %d runs as a file, %d otherwise", d, w.files, w.others)
		}
	}
}

package api

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// begin begins an upload to local/app, and gives its Location.
func (h *home) begin() string {
	h.t.Helper()
	res, _ := h.want(202, "POST", "local/app/blobs/uploads/", "")
	return res.Header.Get("Location")
}

// stands wants an upload to have come so far.
func (h *home) stands(at, span string) {
	h.t.Helper()
	res, _ := h.want(204, "GET", at, "")
	wantHeader(h.t, res, "Range", span, "Location", at)
}

// streamed sends a body of which no header tells the length.
func (h *home) streamed(method, path, body string, header ...string) (*http.Response, string) {
	h.t.Helper()
	return h.send(method, path, io.MultiReader(strings.NewReader(body)), header...)
}

// TestAPieceThatContradictsItselfIsNotTaken: not as long as its Content-Range
// says, it leaves the upload where it was.
func TestAPieceThatContradictsItselfIsNotTaken(t *testing.T) {
	h := newHome(t)
	d := digest.FromString("abcdef").String()
	at := h.begin()
	h.want(202, "PATCH", at, "abc", "Content-Range", "0-2")
	for name, send := range map[string]func() (*http.Response, string){
		"short, told":        func() (*http.Response, string) { return h.do("PATCH", at, "def", "Content-Range", "3-9") },
		"long, told":         func() (*http.Response, string) { return h.do("PATCH", at, "defghi", "Content-Range", "3-5") },
		"short":              func() (*http.Response, string) { return h.streamed("PATCH", at, "def", "Content-Range", "3-9") },
		"long":               func() (*http.Response, string) { return h.streamed("PATCH", at, "defghi", "Content-Range", "3-5") },
		"the last one, told": func() (*http.Response, string) { return h.do("PUT", at+"?digest="+d, "def", "Content-Range", "3-9") },
		"the last one": func() (*http.Response, string) {
			return h.streamed("PUT", at+"?digest="+d, "def", "Content-Range", "3-9")
		},
	} {
		t.Run(name, func(t *testing.T) {
			res, body := send()
			wantError(t, res, body, 400, "SIZE_INVALID")
			wantHeader(t, res, "Range", "0-2", "Location", at)
			h.stands(at, "0-2")
		})
	}
	h.want(202, "PATCH", at, "", "Content-Range", "3-2") // a piece of nothing
	res, body := h.do("PATCH", at, "f", "Content-Range", "5-5")
	wantError(t, res, body, 416, "BLOB_UPLOAD_INVALID")
	wantHeader(t, res, "Range", "0-2", "Location", at)
	h.want(201, "PUT", at+"?digest="+d, "def", "Content-Range", "3-5")
}

// TestWhatCameOfABrokenPieceIsKept: a client whose connection broke asks, and goes on.
func TestWhatCameOfABrokenPieceIsKept(t *testing.T) {
	h := newHome(t)
	at := h.begin()
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PATCH %s HTTP/1.1\r\nHost: h\r\nContent-Range: 0-8\r\nContent-Length: 9\r\n\r\nhalf", at)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(conn); err != nil || strings.HasPrefix(string(answer), "HTTP/1.1 2") {
		t.Errorf("%q, %v; want no success", answer, err)
	}
	h.stands(at, "0-3")
	h.want(202, "PATCH", at, " done", "Content-Range", "4-8")
	h.want(201, "PUT", at+"?digest="+digest.FromString("half done").String(), "")
}

// TestAnUploadTakesOnePieceAtATime: whoever comes while one is being sent is told
// so at once, and how far it has come.
func TestAnUploadTakesOnePieceAtATime(t *testing.T) {
	h := newHome(t)
	at := h.begin()
	d := digest.FromString("first").String()
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PATCH %s HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nfir", at)
	comesTrue(t, func() bool {
		res, _ := h.want(204, "GET", at, "")
		return res.Header.Get("Range") == "0-2"
	})
	for _, method := range []string{"PATCH", "PUT"} {
		res, body := h.do(method, at+"?digest="+d, "st")
		wantError(t, res, body, 409, "BLOB_UPLOAD_INVALID")
		wantHeader(t, res, "Range", "0-2", "Retry-After", "1")
	}
	fmt.Fprint(conn, "st")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || res.StatusCode != 202 {
		t.Fatalf("%+v, %v", res, err)
	}
	res.Body.Close()
	h.want(201, "PUT", at+"?digest="+d, "")
}

// TestUploadsAreBegunInAllSpellings: without the slash, with a digest of what is
// still to come, by an algorithm.
func TestUploadsAreBegunInAllSpellings(t *testing.T) {
	h := newHome(t)
	d := digest.FromString("a blob").String()
	h.want(201, "POST", "local/app/blobs/uploads?digest="+d, "a blob")
	h.want(201, "POST", "local/other/blobs/uploads?mount="+d+"&from=local/app", "")
	for _, query := range []string{"", "?digest=" + d, "?digest-algorithm=sha512"} {
		res, _ := h.want(202, "POST", "local/app/blobs/uploads"+query, "")
		at := res.Header.Get("Location")
		h.want(202, "PATCH", at, "a blob")
		h.want(201, "PUT", at+"?digest="+digest.SHA512.FromString("a blob").String(), "")
	}
	h.want(201, "POST", "local/app/blobs/uploads/?digest="+digest.FromString("").String(), "")
	res, body := h.do("POST", "local/app/blobs/uploads/?digest-algorithm=md5", "")
	wantError(t, res, body, 400, "DIGEST_INVALID")
	h.want(405, "GET", "local/app/blobs/uploads", "")
	h.want(405, "PUT", "local/app/blobs/uploads", "")
}

// TestAWrongDigestEndsTheUpload, and one that is none does not.
func TestAWrongDigestEndsTheUpload(t *testing.T) {
	h := newHome(t)
	at := h.begin()
	h.want(202, "PATCH", at, "abc")
	res, body := h.do("PUT", at+"?digest=sha256:short", "")
	wantError(t, res, body, 400, "DIGEST_INVALID")
	wantHeader(t, res, "Range", "0-2")
	res, body = h.do("PUT", at+"?digest="+digest.FromString("other").String(), "")
	wantError(t, res, body, 400, "DIGEST_INVALID")
	wantHeader(t, res, "Range", "")
	res, body = h.do("GET", at, "")
	wantError(t, res, body, 404, "BLOB_UPLOAD_UNKNOWN")
	if left, err := h.store.Ingests(); err != nil || len(left) != 0 {
		t.Errorf("%d uploads are left, %v", len(left), err)
	}
}

func TestATagThatCannotBeIsToldToWhoPushesIt(t *testing.T) {
	h := newHome(t)
	_, content := h.pushImage("local/app", "v1", "a layer", nil)
	for _, tag := range []string{".v1", "-v1", "v%201", strings.Repeat("x", 129)} {
		res, body := h.do("PUT", "local/app/manifests/"+tag, content, "Content-Type", specs.MediaTypeImageManifest)
		wantError(t, res, body, 400, "TAG_INVALID")
		if !strings.Contains(body, "128 letters") {
			t.Errorf("it does not say what a tag looks like: %s", body)
		}
		res, body = h.do("GET", "local/app/manifests/"+tag, "")
		wantError(t, res, body, 404, "MANIFEST_UNKNOWN")
		res, body = h.do("DELETE", "local/app/manifests/"+tag, "")
		wantError(t, res, body, 404, "MANIFEST_UNKNOWN")
	}
}

// TestAClientWhoseBodyIsReadMayWait: what is done with it may take longer than its
// client may be silent in the middle of it.
func TestAClientWhoseBodyIsReadMayWait(t *testing.T) {
	var deadlines []bool
	b := patientBody{io.NopCloser(strings.NewReader("abc")), func(at time.Time) error {
		deadlines = append(deadlines, !at.IsZero())
		return nil
	}}
	if _, err := io.ReadAll(&b); err != nil || len(deadlines) < 2 || !deadlines[0] || deadlines[len(deadlines)-1] {
		t.Errorf("%v, %v: want deadlines, and none in the end", deadlines, err)
	}
}

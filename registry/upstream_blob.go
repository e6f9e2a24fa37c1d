package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/layerstore"
)

// blobSource is one blob of an upstream as a [layerstore.Source].
type blobSource struct {
	u      *upstream
	path   string
	digest digest.Digest
	// witness, if there is one, sees what upstream answers.
	witness *witness
}

// blob names a blob; nothing is asked before Open.
func (u *upstream) blob(path string, d digest.Digest) layerstore.Source {
	return u.blobSeen(path, d, nil)
}

// blobSeen is blob with a witness, which may be nil.
func (u *upstream) blobSeen(path string, d digest.Digest, w *witness) layerstore.Source {
	own := blobSource{u: u, path: path, digest: d, witness: w}
	if len(u.mirrors) == 0 {
		return own
	}
	return &mirroredBlob{blobSource: own}
}

// Open asks upstream, redirects and all, each time: the address that it was
// redirected to last time is signed and may have run out. A range is asked for
// with both ends, for some registries refuse an open one. When upstream
// cannot serve the range it is asked for the whole, and the body tells so.
func (s blobSource) Open(ctx context.Context, offset, end int64) (*layerstore.Body, error) {
	if s.u.home != nil { // what was pushed is here, or nowhere
		return nil, notPushed(CodeBlobUnknown, s.u.name+"/"+s.path+"@"+s.digest.String())
	}
	want := byteRange{offset, end}
	body, err := s.open(ctx, want)
	if errors.Is(err, errNoRange) {
		body, err = s.open(ctx, byteRange{0, -1})
	}
	if err != nil {
		return nil, s.explain(err)
	}
	return body, nil
}

// sharesMost is how many requests for parts of blobs one upstream gets beside
// the first ones of each blob: a few blobs' worth, so that a burst of pulls
// does not look like an attack.
const sharesMost = 12

// Share implements [layerstore.Sharer]: the cap is the upstream's.
func (s blobSource) Share() (done func(), ok bool) {
	select {
	case s.u.shares <- struct{}{}:
		return func() { <-s.u.shares }, true
	default:
		return nil, false
	}
}

// explain puts the blob into an error of ours. A context's error stays as it is.
func (s blobSource) explain(err error) error {
	return aboutReference(err, s.u.name+"/"+s.path+"@"+s.digest.String())
}

// errNoRange: upstream did not serve the range, though it may serve the whole.
var errNoRange = errors.New("upstream did not send the range that it was asked for")

func (s blobSource) open(ctx context.Context, want byteRange) (*layerstore.Body, error) {
	done, err := s.u.takePlace(ctx)
	if err != nil {
		return nil, err
	}
	body, err := s.openIn(ctx, want, done)
	if err != nil {
		done()
	}
	return body, err
}

// takePlace waits for a place among the bodies that upstream sends. done gives
// it back, and may be called more than once.
func (u *upstream) takePlace(ctx context.Context) (done func(), err error) {
	select {
	case u.bodies <- struct{}{}:
		return sync.OnceFunc(func() { <-u.bodies; nudge(u.freed) }), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s blobSource) openIn(ctx context.Context, want byteRange, done func()) (*layerstore.Body, error) {
	if s.witness != nil {
		s.witness.asked.Store(true)
	}
	res, err := s.u.ask(ctx, s.question(http.MethodGet, want))
	if err != nil {
		return nil, err
	}
	if s.witness != nil && (res.StatusCode == http.StatusOK || res.StatusCode == http.StatusPartialContent) {
		s.witness.see(res.anonymous)
	}
	body := &layerstore.Body{ReadCloser: &blobBody{ReadCloser: res.Body, u: s.u, ctx: ctx, done: done}, Size: -1}
	switch {
	case res.StatusCode == http.StatusOK:
		body.Size = res.ContentLength
		return body, nil
	case res.StatusCode == http.StatusPartialContent && !want.whole():
		got, size, ok := contentRange(res.Header.Get("Content-Range"))
		if ok && got.start == want.start {
			body.Offset, body.Size = got.start, size
			return body, nil
		}
	}
	res.Body.Close()
	if want.whole() {
		return nil, s.u.reject(CodeUnavailable, "upstream answered "+statusText(res.StatusCode)+" to a question for the whole blob")
	}
	return nil, errNoRange
}

func (s blobSource) question(method string, want byteRange) question {
	q := question{subject: subjectBlob, method: method, path: s.path, rest: "blobs/" + s.digest.String(),
		header: http.Header{"Accept-Encoding": {"identity"}}, accept: blobAnswers}
	if !want.whole() {
		q.header.Set("Range", want.String())
	}
	return q
}

func blobAnswers(status int) bool {
	switch status {
	case http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable:
		return true
	}
	return false
}

// blobSize asks how large a blob is. Some registries redirect a HEAD to an
// address that is signed for GET only, or leave the length out: then the first
// byte is fetched, whose range tells.
func (u *upstream) blobSize(ctx context.Context, path string, d digest.Digest) (int64, error) {
	if u.home != nil {
		return u.home.blobSize(Repository{u.name, path}, d)
	}
	ctx, cancel := context.WithTimeout(ctx, manifestTime)
	defer cancel()
	s := blobSource{u: u, path: path, digest: d}
	q := s.question(http.MethodHead, byteRange{0, -1})
	q.accept = func(status int) bool { return status < 500 && status != http.StatusTooManyRequests }
	res, err := u.ask(ctx, q)
	if err != nil {
		return 0, s.explain(err)
	}
	res.Body.Close()
	switch {
	case res.StatusCode == http.StatusOK && res.ContentLength >= 0:
		return res.ContentLength, nil
	case sameOrigin(res.Request.URL, u.base) && decided(res.StatusCode):
		return 0, s.explain(u.failed(ctx, subjectBlob, statusError(subjectBlob, res.StatusCode, false, "")))
	}
	body, err := s.Open(ctx, 0, 1)
	if err != nil {
		return 0, err
	}
	body.Close()
	if body.Size < 0 {
		return 0, s.explain(u.reject(CodeUnavailable, "upstream does not tell the size of the blob"))
	}
	return body.Size, nil
}

func decided(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusNotFound
}

// byteRange is [start, end) of a blob; end -1 is its end.
type byteRange struct{ start, end int64 }

func (r byteRange) whole() bool { return r.start == 0 && r.end < 0 }

// String is the value of a Range header (RFC 9110 section 14.2).
func (r byteRange) String() string {
	if r.end < 0 {
		return fmt.Sprintf("bytes=%d-", r.start)
	}
	return fmt.Sprintf("bytes=%d-%d", r.start, r.end-1)
}

// contentRange reads "bytes 0-99/1234" (RFC 9110 section 14.4). size is -1
// where upstream wrote "*".
func contentRange(value string) (got byteRange, size int64, ok bool) {
	unit, rest, found := strings.Cut(strings.TrimSpace(value), " ")
	if !found || !strings.EqualFold(unit, "bytes") {
		return got, 0, false
	}
	span, total, found := strings.Cut(rest, "/")
	first, last, dash := strings.Cut(span, "-")
	if !found || !dash {
		return got, 0, false
	}
	a, errA := strconv.ParseInt(first, 10, 64)
	b, errB := strconv.ParseInt(last, 10, 64)
	size = -1
	var errSize error
	if total != "*" {
		size, errSize = strconv.ParseInt(total, 10, 64)
	}
	if errA != nil || errB != nil || errSize != nil || a < 0 || b < a || (total != "*" && size <= b) {
		return got, 0, false
	}
	return byteRange{a, b + 1}, size, true
}

// blobBody notices when upstream breaks a transfer off, which counts as a
// failure of upstream though its answer had begun well.
type blobBody struct {
	io.ReadCloser
	u    *upstream
	ctx  context.Context
	once sync.Once
	done func() // gives its place among the bodies back, once
}

// Close closes the body.
func (b *blobBody) Close() error {
	b.done()
	return b.ReadCloser.Close()
}

func (b *blobBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil || err == io.EOF {
		return n, err
	}
	if b.ctx.Err() != nil {
		return n, b.ctx.Err()
	}
	e := networkError(err)
	if e.Code == CodeUnavailable {
		e.Message = "upstream broke off in the middle of a blob"
	}
	b.once.Do(func() { _ = b.u.failed(b.ctx, subjectBlob, e) })
	return n, e
}

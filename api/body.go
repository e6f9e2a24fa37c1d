package api

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/layerstore"
)

// runSize is the most bytes handed to the kernel at once; each such piece
// has its own writeTimeout. It is also the most that one sendfile(2) of
// net takes, so that a larger piece would save nothing.
const runSize = 4 << 20

// identify sets what every answer with content carries. The digest is a
// strong validator: it is the content.
func (w *record) identify(mediaType string, d digest.Digest) {
	w.put("Content-Type", mediaType)
	w.put("Docker-Content-Digest", d.String())
	w.put("Etag", `"`+d.String()+`"`)
	h := w.Header()
	h["Accept-Ranges"] = acceptRanges
	h["X-Content-Type-Options"] = noSniff // the type is what an upstream says
}

// Shared by all answers; net/http does not change them.
var (
	acceptRanges = []string{"bytes"}
	noSniff      = []string{"nosniff"}
)

// conditional reports whether a request needs more than the whole content.
func conditional(r *http.Request) bool {
	for _, field := range [...]string{"Range", "If-None-Match", "If-Match", "If-Range"} {
		if _, ok := r.Header[field]; ok {
			return true
		}
	}
	return false
}

// content is what http.ServeContent sends. For several ranges ServeContent
// reads in a goroutine that may outlive it by a moment, hence the mutex and
// that a closed content gives no more.
type content struct {
	blob *layerstore.Blob // nil: memory only

	mu     sync.Mutex // guards what follows and the position of the blob
	reader io.ReadSeeker
	err    error // why the content could not be read
	closed bool
}

func newMemory(b []byte) *content { return &content{reader: bytes.NewReader(b)} }

func newBlob(b *layerstore.Blob) *content { return &content{reader: b, blob: b} }

func (c *content) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, os.ErrClosed
	}
	n, err := c.reader.Read(p)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

func (c *content) Seek(offset int64, whence int) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, os.ErrClosed
	}
	return c.reader.Seek(offset, whence)
}

// end stops further reads and tells why the content could not be read, nil
// when it could.
func (c *content) end() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.err
}

// serveContent answers with c as http.ServeContent does (Range, If-Range,
// If-None-Match, 416), with three differences: blobs are sent by the kernel,
// also while they come in; the header waits for the first byte, so that a
// transfer that fails before it is a proper error; and one that fails later is
// cut (by the error this returns).
func serveContent(w *record, r *http.Request, c *content) error {
	s := &sender{record: w, content: c}
	size, err := c.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if emptySuffix(r) {
		return unsatisfied(w, size)
	}
	http.ServeContent(s, r, "", time.Time{}, c)
	if err := c.end(); err != nil && s.sendErr == nil {
		return err
	}
	if s.held == http.StatusRequestedRangeNotSatisfiable {
		return unsatisfied(w, size)
	}
	s.commit()
	return w.sent(s.sendErr)
}

// emptySuffix reports whether a request asks for the last 0 bytes, which
// http.ServeContent would answer with a range that ends before it begins. A
// unit that we do not know is ignored (RFC 9110, section 14.2).
func emptySuffix(r *http.Request) bool {
	spec := r.Header.Get("Range")
	if spec == "" {
		return false
	}
	ranges, known := strings.CutPrefix(spec, "bytes=")
	if !known {
		r.Header.Del("Range")
		return false
	}
	suffix, isSuffix := strings.CutPrefix(strings.TrimSpace(ranges), "-")
	return isSuffix && suffix != "" && strings.Trim(suffix, "0") == ""
}

// unsatisfied is the error of a range that holds no byte. It tells the size
// (RFC 9110, section 15.5.17).
func unsatisfied(w *record, size int64) error {
	w.Header().Set("Content-Range", "bytes */"+strconv.FormatInt(size, 10))
	return errRange
}

// sender is the ResponseWriter that http.ServeContent sees.
type sender struct {
	*record
	content *content
	held    int // the status that waits for the first byte, 0: none waits
	sendErr error
	run     io.LimitedReader // here rather than on the heap for each run
}

// WriteHeader holds the header back until there is something to send.
func (s *sender) WriteHeader(status int) { s.held = status }

// commit sends the header.
func (s *sender) commit() {
	if s.held != 0 {
		s.record.WriteHeader(s.held)
		s.held = 0
	}
}

// proceed makes ready for the next piece of the body, for which the client has
// writeTimeout: the header gives it that with the first one.
func (s *sender) proceed() {
	if s.held != 0 {
		s.commit()
		return
	}
	s.renew()
}

// Write is for what is not a blob's file: the parts of a multipart answer,
// and ServeContent's own text about a wrong range, which errors.go replaces.
func (s *sender) Write(p []byte) (int, error) {
	if s.held == http.StatusRequestedRangeNotSatisfiable {
		return len(p), nil
	}
	s.proceed()
	n, err := s.record.Write(p)
	if err != nil {
		s.sendErr = err
	}
	return n, err
}

// ReadFrom gets what ServeContent copies: a limited reader over the content.
func (s *sender) ReadFrom(src io.Reader) (int64, error) {
	limited, ok := src.(*io.LimitedReader)
	if ok && s.content.blob != nil && limited.R == io.Reader(s.content) {
		return s.sendBlob(limited.N)
	}
	return io.Copy(writerOnly{s}, src)
}

// writerOnly hides ReadFrom, which would call itself.
type writerOnly struct{ io.Writer }

// sendBlob sends the next n bytes of the blob: whatever stretch of its file
// is readable, and then the next, until n are sent, the blob's transfer fails
// or the client leaves.
func (s *sender) sendBlob(n int64) (sent int64, err error) {
	blob := s.content.blob
	blob.Limit(n)
	for sent < n {
		file, ready, err := blob.Run(min(runSize, n-sent))
		if err != nil {
			return sent, s.broken(err)
		}
		if file == nil {
			k, err := s.relay(n - sent)
			return sent + k, err
		}
		s.proceed()
		s.run = io.LimitedReader{R: file, N: ready}
		k, err := s.record.ReadFrom(&s.run)
		blob.Advance(k)
		sent += k
		if err == nil && k < ready { // the file is shorter than it was
			err = io.ErrUnexpectedEOF
		}
		if err == nil || unreadable(err) && blob.Bypass(err) == nil {
			continue
		}
		if unreadable(err) {
			return sent, s.broken(err)
		}
		s.sendErr = err
		return sent, err
	}
	return sent, nil
}

func (s *sender) broken(err error) error {
	s.content.mu.Lock()
	defer s.content.mu.Unlock()
	s.content.err = err
	return err
}

// sized stands for a blob of which only the size is known, for HEAD: content
// that can be measured and never read.
type sized int64

func (s sized) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func (s sized) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekEnd {
		return int64(s) + offset, nil
	}
	return offset, nil
}

package registrytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
)

var route = regexp.MustCompile(`^/v2/(.+)/(manifests|blobs|tags|referrers)/([^/]+)$`)

func (r *Registry) serveRegistry(w http.ResponseWriter, req *http.Request) {
	answer := r.honest(req)
	answer.header.Set("Docker-Distribution-Api-Version", "registry/2.0")
	r.send(w, req, answer)
}

// honest is the answer that an honest registry gives.
func (r *Registry) honest(req *http.Request) *reply {
	answer := newReply()
	parts := route.FindStringSubmatch(req.URL.Path)
	repository := ""
	if parts != nil {
		repository = parts[1]
	}
	switch {
	case !r.admits(req, repository):
		r.challenge(answer, req, repository)
	case req.Method != http.MethodGet && req.Method != http.MethodHead:
		answer.refuse(http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry is for pulling")
	case req.URL.Path == "/v2/":
		answer.fill("application/json", "", []byte("{}"))
	case parts == nil:
		answer.refuse(http.StatusNotFound, "NAME_UNKNOWN", "no such route")
	case parts[2] == "manifests":
		r.findManifest(answer, repository, parts[3])
	case parts[2] == "blobs":
		r.findBlob(answer, repository, digest.Digest(parts[3]))
	case parts[2] == "referrers":
		r.listReferrers(answer, repository, digest.Digest(parts[3]))
	default:
		r.listTags(answer, repository, req.URL.Query())
	}
	return answer
}

func newReply() *reply {
	return &reply{status: http.StatusOK, header: make(http.Header), content: content{bytes.NewReader(nil), 0},
		corruptAt: -1, cutAfter: -1, stallAfter: -1}
}

func (r *reply) fill(mediaType string, d digest.Digest, body []byte) {
	r.header.Set("Content-Type", mediaType)
	if d != "" {
		r.header.Set("Docker-Content-Digest", d.String())
	}
	r.content = content{bytes.NewReader(body), int64(len(body))}
}

func (r *Registry) findManifest(answer *reply, repository, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := digest.Digest(name)
	if tagged, ok := r.tags[repository][name]; ok {
		d = tagged
	}
	found, ok := r.manifest[repository][d]
	if !ok {
		answer.refuse(http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		return
	}
	answer.fill(found.mediaType, d, found.bytes)
}

func (r *Registry) findBlob(answer *reply, repository string, d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	found, ok := r.blobs[repository][d]
	if !ok {
		answer.refuse(http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown")
		return
	}
	answer.header.Set("Content-Type", "application/octet-stream")
	answer.header.Set("Docker-Content-Digest", d.String())
	answer.content = found
}

func (r *Registry) listTags(answer *reply, repository string, query url.Values) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.manifest[repository] == nil && r.tags[repository] == nil {
		answer.refuse(http.StatusNotFound, "NAME_UNKNOWN", "repository unknown")
		return
	}
	tags := []string{}
	for tag := range r.tags[repository] {
		if tag > query.Get("last") {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	size := r.options.PageSize
	if n, err := strconv.Atoi(query.Get("n")); err == nil && n > 0 && (size == 0 || n < size) {
		size = n
	}
	if size > 0 && len(tags) > size {
		tags = tags[:size]
		next := url.Values{"last": {tags[size-1]}, "n": {strconv.Itoa(size)}}
		answer.header.Set("Link", fmt.Sprintf(`</v2/%s/tags/list?%s>; rel="next"`, repository, next.Encode()))
	}
	body, _ := json.Marshal(map[string]any{"name": repository, "tags": tags})
	answer.fill("application/json", "", body)
}

// serveStorage is the second host: what a registry redirects to.
func (r *Registry) serveStorage(w http.ResponseWriter, req *http.Request) {
	answer := newReply()
	parts := regexp.MustCompile(`^/storage/(.+)/(sha\d+:[0-9a-f]+)$`).FindStringSubmatch(req.URL.Path)
	switch {
	case req.Header.Get("Authorization") != "":
		answer.refuse(http.StatusBadRequest, "LIE", "only one way of signing in is allowed")
	case parts == nil || req.URL.Query().Get("signature") == "":
		answer.refuse(http.StatusForbidden, "DENIED", "no signature")
	default:
		r.findBlob(answer, parts[1], digest.Digest(parts[2]))
		answer.header.Del("Docker-Content-Digest")
	}
	r.send(w, req, answer)
}

// send tells the answer with the lies that rules want.
func (r *Registry) send(w http.ResponseWriter, req *http.Request, answer *reply) {
	for _, lie := range r.lies(req) {
		lie.edit(answer, req)
	}
	if answer.hang && !await(req) {
		panic(http.ErrAbortHandler)
	}
	if parts := route.FindStringSubmatch(req.URL.Path); answer.redirect && answer.status == http.StatusOK && parts != nil {
		scheme := "http://"
		if r.options.TLS {
			scheme = "https://"
		}
		RedirectTo(scheme+r.storage.address+"/storage/"+parts[1]+"/"+parts[3]+"?signature="+secret()).edit(answer, req)
	}
	if answer.noDigest {
		answer.header.Del("Docker-Content-Digest")
	}
	for name, values := range answer.header {
		w.Header()[name] = values
	}
	r.sendBody(w, req, answer)
}

func (r *Registry) sendBody(w http.ResponseWriter, req *http.Request, answer *reply) {
	at := answer.content.ReaderAt
	if answer.corruptAt >= 0 {
		at = flipped{at, answer.corruptAt}
	}
	body := io.NewSectionReader(at, 0, answer.content.size)
	out := &liar{ResponseWriter: w, req: req, answer: answer, left: answer.cutAfter}
	if answer.ignoreRange {
		req.Header.Del("Range")
	}
	if answer.status == http.StatusOK {
		http.ServeContent(out, req, "", time.Time{}, body)
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(answer.content.size, 10))
	out.WriteHeader(answer.status)
	if req.Method != http.MethodHead {
		_, _ = io.Copy(out, body)
	}
}

// await waits for the Release after the request came. It is false when the
// caller left.
func await(req *http.Request) bool {
	select {
	case <-req.Context().Value(releaseKey{}).(chan struct{}):
		return true
	case <-req.Context().Done():
		return false
	}
}

// liar cuts, stalls and shifts on the way out.
type liar struct {
	http.ResponseWriter
	req    *http.Request
	answer *reply
	sent   int64
	left   int64
}

func (l *liar) WriteHeader(status int) {
	if l.answer.shiftRange && status == http.StatusPartialContent {
		var a, b, size int64
		_, err := fmt.Sscanf(l.Header().Get("Content-Range"), "bytes %d-%d/%d", &a, &b, &size)
		if err == nil {
			l.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", a+1, b, size))
		}
	}
	l.ResponseWriter.WriteHeader(status)
}

func (l *liar) Write(p []byte) (int, error) {
	written := 0
	for {
		stop := l.next()
		if stop < 0 || l.sent+int64(len(p)) < stop {
			n, err := l.ResponseWriter.Write(p)
			l.sent += int64(n)
			return written + n, err
		}
		head := p[:stop-l.sent]
		n, err := l.ResponseWriter.Write(head)
		l.sent += int64(n)
		written += n
		if err != nil {
			return written, err
		}
		_ = http.NewResponseController(l.ResponseWriter).Flush()
		l.pause()
		p = p[len(head):]
	}
}

// next is the count of bytes at which something happens, -1 for never.
func (l *liar) next() int64 {
	switch cut, stall := l.answer.cutAfter, l.answer.stallAfter; {
	case cut < 0:
		return stall
	case stall < 0:
		return cut
	default:
		return min(cut, stall)
	}
}

func (l *liar) pause() {
	if l.sent == l.answer.stallAfter {
		l.answer.stallAfter = -1
		if await(l.req) {
			return
		}
	}
	panic(http.ErrAbortHandler)
}

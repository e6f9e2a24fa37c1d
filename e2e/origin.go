//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// origin is a registry of the least kind, for what docker-registry would refuse or takes long to be given: a manifest that is too large, a
// blob of gigabytes that stands nowhere. It wants no credentials.
type origin struct {
	manifests map[string][]byte // by tag or digest
	blobs     map[digest.Digest]func() io.ReadSeeker
}

// serve starts the origin and gives its url. The end of the test ends it.
func (o *origin) serve(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(o)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL
}

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v2/" {
		return
	}
	if _, hash, ok := parseBlobPath(r.URL.Path); ok && o.blobs[hash] != nil {
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, o.blobs[hash]())
		return
	}
	_, reference, _ := strings.Cut(r.URL.Path, "/manifests/")
	if content, ok := o.manifests[reference]; ok {
		w.Header().Set("Content-Type", specs.MediaTypeImageManifest)
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(content).String())
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		_, _ = w.Write(content) // whoever is cut off hears it himself
		return
	}
	http.NotFound(w, r)
}

// endless is a blob of any size that nobody has to keep: block after block of the same random bytes, each marked with its number.
type endless struct {
	block  []byte
	size   int64
	offset int64
}

// newEndless gives a blob of size bytes.
func newEndless(size int64) *endless { return &endless{block: randomBytes(1<<20, 70), size: size} }

// again gives the same blob from its beginning.
func (e *endless) again() io.ReadSeeker { return &endless{block: e.block, size: e.size} }

func (e *endless) Read(p []byte) (int, error) {
	if e.offset >= e.size {
		return 0, io.EOF
	}
	block, at := e.offset/int64(len(e.block)), e.offset%int64(len(e.block))
	p = p[:min(int64(len(p)), e.size-e.offset)]
	n := copy(p, e.block[at:])
	for i := int64(0); i < 8; i++ { // the number of the block replaces its first eight bytes
		if at <= i && i < at+int64(n) {
			p[i-at] = byte(block >> (8 * i))
		}
	}
	e.offset += int64(n)
	return n, nil
}

func (e *endless) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += e.offset
	case io.SeekEnd:
		offset += e.size
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek to %d", offset)
	}
	e.offset = offset
	return offset, nil
}

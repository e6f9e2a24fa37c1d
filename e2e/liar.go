//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// liar stands before a real registry, forwards what it hears, and lies about the blobs that it was told to lie about. It counts what it
// sends, so that a test can tell what imagecache asked for twice.
type liar struct {
	server   *httptest.Server
	upstream string // http://host:port

	mu    sync.Mutex // guards what follows
	lies  map[digest.Digest]lie
	sent  map[digest.Digest]int64    // bytes of bodies, whole blobs and ranges alike
	asked map[digest.Digest][]string // the Range header of each GET, "" for none
}

// lie answers one GET of a blob in place of the registry. What it does not send is not counted.
type lie func(a *blobAnswer)

// blobAnswer is the registry's true answer to one GET of a blob, on its way.
type blobAnswer struct {
	liar   *liar
	digest digest.Digest
	w      http.ResponseWriter
	r      *http.Request
	resp   *http.Response
	offset int64 // where in the blob the next byte of the body stands
	end    int64 // where the body ends
	size   int64 // of the blob
}

// startLiar starts a liar that does not lie yet. The end of the test ends it.
func startLiar(t *testing.T, upstream string) *liar {
	t.Helper()
	l := &liar{upstream: upstream, lies: map[digest.Digest]lie{}, sent: map[digest.Digest]int64{}, asked: map[digest.Digest][]string{}}
	l.server = httptest.NewUnstartedServer(l)
	// What stands in a socket's buffer counts as sent though nobody has it. Keep that small.
	l.server.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		if tcp, ok := conn.(*net.TCPConn); ok && state == http.StateNew {
			_ = tcp.SetWriteBuffer(64 << 10)
		}
	}
	l.server.Start()
	t.Cleanup(func() {
		l.server.CloseClientConnections()
		l.server.Close()
	})
	return l
}

// about makes the liar lie about a blob from now on; a nil lie is the truth again.
func (l *liar) about(hash digest.Digest, how lie) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if how == nil {
		how = tellTruth
	}
	l.lies[hash] = how
}

// bytesSent is how many bytes of a blob have left, whole blobs and ranges together.
func (l *liar) bytesSent(hash digest.Digest) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent[hash]
}

// requireSent is nil when at least that many bytes of a blob have left.
func (l *liar) requireSent(hash digest.Digest, want int64) error {
	if sent := l.bytesSent(hash); sent < want {
		return fmt.Errorf("%d bytes have left", sent)
	}
	return nil
}

// ranges gives the Range header of each GET of a blob so far.
func (l *liar) ranges(hash digest.Digest) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.asked[hash]...)
}

// ServeHTTP forwards a request, and its answer unless there is a lie for it.
func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	req, err := http.NewRequestWithContext(r.Context(), r.Method, l.upstream+r.URL.RequestURI(), r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	req.Header = r.Header.Clone()
	req.ContentLength = r.ContentLength
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	_, hash, ok := parseBlobPath(r.URL.RequestURI())
	if !ok || r.Method != http.MethodGet || resp.StatusCode >= 300 {
		copyHeader(w, resp)
		_, _ = io.Copy(w, resp.Body) // whoever is cut off hears it himself
		return
	}
	l.mu.Lock()
	l.asked[hash] = append(l.asked[hash], r.Header.Get("Range"))
	how := l.lies[hash]
	l.mu.Unlock()
	if how == nil {
		how = tellTruth
	}
	how(newBlobAnswer(l, hash, w, r, resp))
}

// copyHeader sends the status and the header of the registry's answer.
func copyHeader(w http.ResponseWriter, resp *http.Response) {
	for key, values := range resp.Header {
		w.Header()[key] = values
	}
	w.WriteHeader(resp.StatusCode)
}

func newBlobAnswer(l *liar, hash digest.Digest, w http.ResponseWriter, r *http.Request, resp *http.Response) *blobAnswer {
	a := &blobAnswer{liar: l, digest: hash, w: w, r: r, resp: resp, end: resp.ContentLength, size: resp.ContentLength}
	var last int64
	if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%d", &a.offset, &last, &a.size); err == nil {
		a.end = last + 1
	}
	return a
}

// send sends the body up to an offset in the blob, or to its end. It tells whether the whole of that went out.
func (a *blobAnswer) send(until int64) bool {
	for a.offset < min(until, a.end) {
		n, err := io.CopyN(a.w, a.resp.Body, min(32<<10, min(until, a.end)-a.offset))
		a.count(n)
		if err != nil {
			return false
		}
	}
	return http.NewResponseController(a.w).Flush() == nil
}

// count notes bytes that were sent.
func (a *blobAnswer) count(n int64) {
	a.offset += n
	a.liar.mu.Lock()
	defer a.liar.mu.Unlock()
	a.liar.sent[a.digest] += n
}

// cut breaks the connection.
func (a *blobAnswer) cut() { panic(http.ErrAbortHandler) }

// tellTruth is no lie.
func tellTruth(a *blobAnswer) {
	copyHeader(a.w, a.resp)
	a.send(a.end)
}

// cutAt breaks the connection at an offset in the blob, each time.
func cutAt(offset int64) lie {
	return func(a *blobAnswer) {
		copyHeader(a.w, a.resp)
		a.send(offset)
		if a.offset < a.end {
			a.cut()
		}
	}
}

// stallAt sends nothing more from an offset on, each time, and keeps the connection until the other side or the liar goes.
func stallAt(offset int64) lie {
	return func(a *blobAnswer) {
		copyHeader(a.w, a.resp)
		a.send(offset)
		if a.offset < a.end {
			<-a.r.Context().Done()
		}
	}
}

// refuse answers with a status. retryAfter, when not 0, is said in seconds.
func refuse(status int, retryAfter time.Duration) lie {
	return func(a *blobAnswer) {
		if retryAfter > 0 {
			a.w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
		}
		http.Error(a.w, strings.ToLower(http.StatusText(status)), status)
	}
}

// wrongLastByte sends everything true but the last byte.
func wrongLastByte(a *blobAnswer) {
	copyHeader(a.w, a.resp)
	if !a.send(a.end - 1) {
		return
	}
	last, err := io.ReadAll(a.resp.Body)
	if err != nil || len(last) != 1 {
		a.cut()
	}
	if a.end == a.size {
		last[0] ^= 0xff
	}
	_, _ = a.w.Write(last)
	a.count(1)
}

// anotherBlob sends the content of another blob as if it were the one asked for.
func anotherBlob(content []byte) lie {
	return func(a *blobAnswer) {
		a.w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		a.w.Header().Set("Docker-Content-Digest", a.digest.String())
		a.w.WriteHeader(http.StatusOK)
		n, _ := a.w.Write(content)
		a.count(int64(n))
	}
}

// throttled sends the truth, and no more bytes a second on one connection than rate.
func throttled(rate int64) lie {
	return func(a *blobAnswer) {
		copyHeader(a.w, a.resp)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for a.offset < a.end {
			select {
			case <-a.r.Context().Done():
				return
			case <-tick.C:
				if !a.send(a.offset + rate/100) {
					return
				}
			}
		}
	}
}

// gate holds a transfer at an offset. Behind it comes a trickle only, too little to matter and enough not to look dead.
type gate struct {
	at     int64
	opened chan struct{}
}

// newGate gives a gate that is shut.
func newGate(at int64) *gate { return &gate{at: at, opened: make(chan struct{})} }

// open lets everything through from now on.
func (g *gate) open() { close(g.opened) }

// gated sends a blob through gates that stand in the order of their offsets.
func gated(gates ...*gate) lie {
	return func(a *blobAnswer) {
		copyHeader(a.w, a.resp)
		for _, g := range gates {
			if !a.send(g.at) || !a.trickle(g) {
				return
			}
		}
		a.send(a.end)
	}
}

// trickle sends 256 bytes ten times a second until the gate is open.
func (a *blobAnswer) trickle(g *gate) bool {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for a.offset < a.end {
		select {
		case <-g.opened:
			return true
		case <-a.r.Context().Done():
			return false
		case <-tick.C:
			if !a.send(a.offset + 256) {
				return false
			}
		}
	}
	return true
}

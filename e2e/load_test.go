//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// load is how much is asked of the daemon: little in the test command, all in `make load`.
type load struct {
	clients int           // at once, each with connections of its own
	during  time.Duration // for how long they go on
	idle    int           // connections that do nothing
	slow    int           // clients that send or read a byte at a time, of each kind
	halfway int           // answers and uploads that are in their midst when the daemon is told to stop
}

// loadVariable, in the environment, asks for all of it.
const loadVariable = "IMAGECACHE_LOAD"

func loadWanted() load {
	if os.Getenv(loadVariable) == "full" {
		return load{clients: 1000, during: time.Minute, idle: 10_000, slow: 300, halfway: 200}
	}
	return load{clients: 100, during: 2 * time.Second, idle: 500, slow: 30, halfway: 20}
}

// TestManyClientsAndSIGTERM: many clients pull, push, list and delete at once, and each gets what is right. Then the daemon is told to stop
// while they go on: every answer that has begun ends right, and what was acknowledged is there at the next start.
func TestManyClientsAndSIGTERM(t *testing.T) {
	wanted := loadWanted()
	h := startHome(t)
	shared := map[digest.Digest]bool{}
	for n, size := range []int{1000, 64_000, 1 << 20} {
		content := randomBytes(size, uint64(2000+n))
		if _, err := h.pushOne(t.Context(), "shared", "v"+strconv.Itoa(n), content); err != nil {
			t.Fatal(err)
		}
		shared[digest.FromBytes(content)] = true
	}
	crowd := &crowd{home: h, acknowledged: map[string]digest.Digest{}}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var clients sync.WaitGroup
	for n := range wanted.clients {
		clients.Go(func() { crowd.client(ctx, t, n) })
	}
	select {
	case <-time.After(wanted.during): // how long, not a wait for something
	case <-ctx.Done():
	}
	eventually(t, "each client did something", func() error {
		if n := crowd.begun.Load(); n < int64(wanted.clients) {
			return fmt.Errorf("%d of %d", n, wanted.clients)
		}
		return nil
	})
	crowd.stopping.Store(true)
	h.proc.stop()
	if code := h.proc.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	stop()
	clients.Wait()
	t.Logf("%d clients, %d rounds, %d pushes acknowledged", wanted.clients, crowd.rounds.Load(), len(crowd.acknowledged))
	h.daemon.start(t)
	c := homeClient(t, h)
	for tag, d := range crowd.acknowledged {
		if got, err := c.pull(t.Context(), "local/crowd", tag); err != nil || got != d {
			t.Errorf("%s was acknowledged as %s: %s, %v", tag, d, got, err)
		}
	}
	for d := range shared {
		if _, err := c.blob(t.Context(), "local/shared", d, nil); err != nil {
			t.Error(err)
		}
	}
	h.requireTrueStore(t)
}

// crowd is many clients of one home.
type crowd struct {
	*home
	begun, rounds atomic.Int64
	stopping      atomic.Bool // the daemon has been told to end

	mu           sync.Mutex // guards what follows
	acknowledged map[string]digest.Digest
}

// client goes round until the context ends, or the daemon does: from then on it may be refused, but nothing may be cut.
func (c *crowd) client(ctx context.Context, t *testing.T, n int) {
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	web := &http.Client{Transport: transport}
	for round := 0; ctx.Err() == nil; round++ {
		err := c.round(ctx, web, n, round)
		switch {
		case err == nil:
			c.rounds.Add(1)
			if round == 0 {
				c.begun.Add(1)
			}
		case c.stopping.Load() && !cut(err):
			return
		case ctx.Err() == nil:
			t.Errorf("client %d, round %d: %v", n, round, err)
			c.begun.Add(1) // nobody need wait for it
			return
		}
	}
}

// cutError is an answer that had begun and did not end right.
type cutError struct{ error }

func cut(err error) bool {
	_, was := err.(cutError)
	return was
}

// round is what one client does: it pulls, and now and then lists and pushes.
func (c *crowd) round(ctx context.Context, web *http.Client, n, round int) error {
	tag := "v" + strconv.Itoa((n+round)%3)
	if err := c.pullAll(ctx, web, "shared", tag); err != nil {
		return err
	}
	if _, err := ask(ctx, web, http.MethodGet, c.path("shared/tags/list"), nil); err != nil {
		return err
	}
	if round%20 != 0 {
		return nil
	}
	name := fmt.Sprintf("c%d-%d", n, round)
	d, err := c.pushBy(ctx, web, "crowd", name, randomBytes(5000, uint64(n)<<20|uint64(round)))
	if err == nil {
		c.mu.Lock()
		c.acknowledged[name] = d
		c.mu.Unlock()
	}
	return err
}

func (h *home) path(rest string) string { return "http://" + h.addr + "/v2/local/" + rest }

// ask does one request and reads the answer to its end. The error is a cutError where the answer had begun.
func ask(ctx context.Context, web *http.Client, method, url string, body io.Reader) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	resp, err := web.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s: %s", resp.Status, content)
	}
	if err != nil && ctx.Err() == nil {
		return nil, cutError{fmt.Errorf("%s %s: %w", method, url, err)}
	}
	return content, err
}

// pullAll pulls an image and checks every byte.
func (c *crowd) pullAll(ctx context.Context, web *http.Client, repository, tag string) error {
	manifest, err := ask(ctx, web, http.MethodGet, c.path(repository+"/manifests/"+tag), nil)
	if err != nil {
		return err
	}
	for _, d := range digestsIn(manifest) {
		content, err := ask(ctx, web, http.MethodGet, c.path(repository+"/blobs/"+d.String()), nil)
		if err != nil {
			return err
		}
		if digest.FromBytes(content) != d {
			return cutError{fmt.Errorf("%s: %w", d, errWrongBytes)}
		}
	}
	return nil
}

// digestsIn are the digests that a manifest names.
func digestsIn(manifest []byte) (all []digest.Digest) {
	for _, word := range strings.Split(string(manifest), `"`) {
		if d, err := digest.Parse(word); err == nil {
			all = append(all, d)
		}
	}
	return all
}

// TestIdleAndSlowClients: connections that do nothing, and clients that send headers or bodies or read answers a byte at a time, keep nobody
// else from being served, and leave nothing behind.
func TestIdleAndSlowClients(t *testing.T) {
	wanted := loadWanted()
	h := startHome(t)
	large := randomBytes(32<<20, 2100) // more than the buffers of a connection hold
	if _, err := h.pushOne(t.Context(), "shared", "v1", large); err != nil {
		t.Fatal(err)
	}
	before := h.goroutines(t)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	var slow sync.WaitGroup
	for range wanted.idle {
		h.connect(t, ctx, &slow, "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n", idly)
	}
	for n := range wanted.slow {
		h.connect(t, ctx, &slow, "GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: ", drip)
		h.connect(t, ctx, &slow, fmt.Sprintf("POST /v2/local/slow%d/blobs/uploads/?digest=%s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n", n, digest.FromString("x")), drip)
		h.connect(t, ctx, &slow, fmt.Sprintf("GET /v2/local/shared/blobs/%s HTTP/1.1\r\nHost: x\r\n\r\n", digest.FromBytes(large)), sip)
	}
	c := homeClient(t, h)
	for n := range 5 {
		if _, err := c.pull(t.Context(), "local/shared", "v1"); err != nil {
			t.Errorf("beside the slow: %v", err)
		}
		if _, err := h.pushOne(t.Context(), "beside", "v"+strconv.Itoa(n), randomBytes(100_000, uint64(2200+n))); err != nil {
			t.Errorf("beside the slow: %v", err)
		}
	}
	t.Logf("%d idle and 3x%d slow: %d goroutines, %d before", wanted.idle, wanted.slow, h.goroutines(t), before)
	leave()
	slow.Wait()
	http.DefaultClient.CloseIdleConnections()
	eventually(t, "nothing is left of them", func() error {
		if now := h.goroutines(t); now > before+20 {
			return fmt.Errorf("%d goroutines, %d before", now, before)
		}
		return nil
	})
}

// connect opens a connection, sends the beginning of a request, and leaves it to a habit until the context ends.
func (h *home) connect(t *testing.T, ctx context.Context, done *sync.WaitGroup, begin string, habit func(context.Context, net.Conn)) {
	t.Helper()
	conn, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, begin); err != nil {
		t.Fatal(err)
	}
	done.Go(func() {
		defer conn.Close()
		habit(ctx, conn)
	})
}

// idly reads one answer, and nothing happens any more.
func idly(ctx context.Context, conn net.Conn) {
	if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	<-ctx.Done()
}

// often is the pace of the slow: a byte, and a byte again.
const often = 200 * time.Millisecond

// drip sends a byte at a time.
func drip(ctx context.Context, conn net.Conn) {
	paced(ctx, func() error { _, err := conn.Write([]byte("x")); return err })
}

// sip reads a byte at a time.
func sip(ctx context.Context, conn net.Conn) {
	paced(ctx, func() error { _, err := conn.Read(make([]byte, 1)); return err })
}

func paced(ctx context.Context, do func() error) {
	tick := time.NewTicker(often)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if do() != nil {
				<-ctx.Done() // the daemon has had enough of it, which is its right
				return
			}
		}
	}
}

// goroutines is how many the daemon has.
func (h *home) goroutines(t *testing.T) int {
	t.Helper()
	metrics, err := ask(t.Context(), http.DefaultClient, http.MethodGet, "http://"+h.addr+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(metrics), "\ngo_goroutines ")
	n, err := strconv.Atoi(strings.Fields(after + " none")[0])
	if err != nil {
		t.Fatalf("no count of goroutines: %v", err)
	}
	return n
}

// TestSIGTERMHalfway: downloads and uploads that are in their midst when the daemon is told to stop come to a right end.
func TestSIGTERMHalfway(t *testing.T) {
	wanted := loadWanted()
	h := startHome(t)
	large := randomBytes(16<<20, 2300)
	if _, err := h.pushOne(t.Context(), "shared", "v1", large); err != nil {
		t.Fatal(err)
	}
	halfway, goOn, results := make(chan struct{}), make(chan struct{}), make(chan error)
	for n := range wanted.halfway {
		go func() { results <- h.downloadHalfway(t.Context(), digest.FromBytes(large), halfway, goOn) }()
		go func() { results <- h.uploadHalfway(t.Context(), randomBytes(300_000, uint64(2400+n)), halfway, goOn) }()
	}
	await(t, halfway, 2*wanted.halfway)
	// An upload is under way for the daemon when it has begun to read it.
	eventually(t, "the uploads have begun", func() error { return h.requireIngests(wanted.halfway) })
	if err := h.proc.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it takes nobody any more", func() error {
		conn, err := net.DialTimeout("tcp", h.addr, patience)
		if err != nil {
			return nil
		}
		return fmt.Errorf("connected, %v", conn.Close())
	})
	close(goOn)
	for range 2 * wanted.halfway {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	<-h.proc.done
	if code := h.proc.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	h.daemon.start(t)
	for n := range wanted.halfway {
		if _, err := homeClient(t, h).blob(t.Context(), "local/halfway", digest.FromBytes(randomBytes(300_000, uint64(2400+n))), nil); err != nil {
			t.Errorf("an upload that was acknowledged: %v", err)
		}
	}
	h.requireTrueStore(t)
}

// downloadHalfway reads half of a blob, says so, and reads the rest when it is told to.
func (h *home) downloadHalfway(ctx context.Context, d digest.Digest, halfway, goOn chan struct{}) error {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.path("shared/blobs/"+d.String()), nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	verifier := d.Verifier()
	_, err = io.CopyN(verifier, resp.Body, resp.ContentLength/2)
	halfway <- struct{}{}
	<-goOn
	if err == nil {
		_, err = io.Copy(verifier, resp.Body)
	}
	if err != nil || !verifier.Verified() {
		return fmt.Errorf("a download over SIGTERM: %w, verified %t", err, verifier.Verified())
	}
	return nil
}

// uploadHalfway sends half of a blob, says so, and sends the rest when it is told to.
func (h *home) uploadHalfway(ctx context.Context, content []byte, halfway, goOn chan struct{}) error {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	rest := &blocking{reached: make(chan struct{}), until: goOn}
	go func() { <-rest.reached; halfway <- struct{}{} }()
	half := len(content) / 2
	body := io.MultiReader(bytes.NewReader(content[:half]), endsCleanly{rest}, bytes.NewReader(content[half:]))
	_, err := ask(ctx, &http.Client{Transport: transport}, http.MethodPost, h.path("halfway/blobs/uploads/?digest="+digest.FromBytes(content).String()), body)
	if err != nil {
		return fmt.Errorf("an upload over SIGTERM: %w", err)
	}
	return nil
}

// endsCleanly makes an error the end.
type endsCleanly struct{ io.Reader }

func (r endsCleanly) Read(p []byte) (int, error) {
	n, _ := r.Reader.Read(p)
	return n, io.EOF
}

// requireIngests holds that n uploads have begun to be written.
func (h *home) requireIngests(n int) error {
	folder, err := os.ReadDir(h.root + "/ingest")
	if err != nil {
		return err
	}
	if len(folder) < n {
		return fmt.Errorf("%d of %d", len(folder), n)
	}
	return nil
}

//go:build e2e

package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Point 4: fifty clients pull a cold image at once, behind a first one that is killed in the middle of its largest blob. Another comes when
// half of that blob is there. All get true bytes, and upstream is asked for nothing twice.
func TestHerd(t *testing.T) {
	const (
		clients = 50
		size    = 12 << 20 // small enough to come by one request from an upstream of any speed
	)
	upstream := startRegistry(t, nil)
	image := ociImage(t, "amd64",
		static.NewLayer(randomBytes(size, 40), types.OCIUncompressedLayer), static.NewLayer(randomBytes(1<<20, 41), types.OCIUncompressedLayer))
	pushed := upstream.push(t, "team/herd:1", image)
	large := blobsOf(t, image)[1]
	liar := startLiar(t, upstream.url())
	early, late := newGate(size/6), newGate(size/2)
	liar.about(large, gated(early, late))
	d := startDaemon(t, liar.server.URL)

	first := startClientProcess(t, newClient(t, d.addr).url("team/herd", "blobs/"+large.String()))
	h := herd{daemon: d, blob: large, pushed: pushed, joined: make(chan struct{}, clients+1)}
	for range clients {
		h.add(t)
	}
	await(t, h.joined, clients)
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	early.open()
	eventually(t, "half of the blob is there", func() error { return liar.requireSent(large, size/2) })
	h.add(t)
	await(t, h.joined, 1)
	late.open()
	if err := h.Wait(); err != nil {
		t.Fatal(err)
	}
	upstream.requireFetchedOnce(t, blobsOf(t, image))
	if n := upstream.manifestFetches(t); n != 1 {
		t.Errorf("upstream was asked %d times for the manifest, want once", n)
	}
	d.requireTrueStore(t)
}

// herd is many clients at once.
type herd struct {
	errgroup.Group
	daemon *daemon
	blob   digest.Digest
	pushed digest.Digest // of the image
	joined chan struct{} // gets a signal when a client has the first of the blob
}

// add adds a client that pulls the image and, beside it, the blob.
func (h *herd) add(t *testing.T) {
	c := newClient(t, h.daemon.addr)
	h.Go(func() error {
		told := false
		_, err := c.blob(t.Context(), "team/herd", h.blob, func(int64) {
			if !told {
				told = true
				h.joined <- struct{}{}
			}
		})
		return err
	})
	h.Go(func() error {
		got, err := c.pull(t.Context(), "team/herd", "1")
		if err == nil && got != h.pushed {
			err = fmt.Errorf("a client pulled %s, want %s", got, h.pushed)
		}
		return err
	})
}

// A large blob of an upstream that limits each connection: however imagecache hurries it, and however many clients wait for it, each byte is
// sent once.
func TestSlowUpstreamSendsOnce(t *testing.T) {
	const (
		size    = 64 << 20
		clients = 8
	)
	upstream := startRegistry(t, nil)
	image := randomImage(t, size, 42)
	upstream.push(t, "team/slow:1", image)
	large := blobsOf(t, image)[1]
	liar := startLiar(t, upstream.url())
	liar.about(large, throttled(8<<20))
	d := startDaemon(t, liar.server.URL)
	var group errgroup.Group
	for range clients {
		c := newClient(t, d.addr)
		group.Go(func() error {
			_, err := c.pull(t.Context(), "team/slow", "1")
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	// 1 MiB is what a connection may have under way when another one brings the rest of its range.
	ranges := liar.ranges(large)
	if sent, most := liar.bytesSent(large), size+int64(len(ranges)-1)<<20; sent > most {
		t.Errorf("upstream sent %d bytes of a blob of %d; ranges: %q", sent, size, ranges)
	}
	d.requireTrueStore(t)
}

// startClientProcess starts a client that is a process of its own, and waits until it has read the first of what is at url.
func startClientProcess(t *testing.T, url string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), clientProcessURL+"="+url)
	hold, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	said, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		hold.Close()
		_ = cmd.Wait() // it was killed
	})
	line, err := bufio.NewReader(said).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "reading" {
		t.Fatalf("the client process said %q (%v)", line, err)
	}
	return cmd
}

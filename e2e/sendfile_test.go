//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// A blob goes from file to socket by sendfile: no byte of it passes through imagecache's memory, whether it is sealed or follows a transfer
// that is under way. The kernel's own trace of the system calls says so.
func TestSendfile(t *testing.T) {
	const size = 64 << 20
	upstream := startRegistry(t, nil)
	image := randomImage(t, size, 80)
	upstream.push(t, "team/large:1", image)
	large := blobsOf(t, image)[1]
	liar := startLiar(t, upstream.url())
	gate := newGate(size / 2)
	liar.about(large, gated(gate))
	d := startDaemon(t, liar.server.URL)

	t.Run("follower", func(t *testing.T) {
		first := startClientProcess(t, newClient(t, d.addr).url("team/large", "blobs/"+large.String()))
		eventually(t, "half of the blob is there", func() error { return liar.requireSent(large, size/2) })
		trace := startTrace(t, d)
		go func() {
			<-trace.reading
			gate.open()
		}()
		readTraced(t, d, large, trace)
		trace.requireSent(t, size)
		_ = first.Process.Kill() // it may have gone with the test already
	})
	t.Run("cached", func(t *testing.T) {
		eventually(t, "the blob is sealed", func() error {
			if !d.holds(large) {
				return os.ErrNotExist
			}
			return nil
		})
		trace := startTrace(t, d)
		readTraced(t, d, large, trace)
		trace.requireSent(t, size)
	})
}

// readTraced reads a blob and tells the trace when the first of it has come.
func readTraced(t *testing.T, d *daemon, hash digest.Digest, trace *trace) {
	t.Helper()
	told := false
	_, err := newClient(t, d.addr).blob(t.Context(), "team/large", hash, func(int64) {
		if !told {
			told = true
			close(trace.reading)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// trace is strace, attached to a daemon.
type trace struct {
	proc    *process
	calls   string        // path of what it saw
	reading chan struct{} // closed when the client has the first bytes
}

// startTrace attaches strace and waits until it is attached.
func startTrace(t *testing.T, d *daemon) *trace {
	t.Helper()
	tr := &trace{calls: filepath.Join(t.TempDir(), "calls"), reading: make(chan struct{})}
	pid := strconv.Itoa(d.proc.cmd.Process.Pid)
	tr.proc = start(t, "strace", exec.Command(debian("strace"), "-f", "-e", "trace=sendfile", "-o", tr.calls, "-p", pid))
	eventually(t, "strace is attached", func() error {
		if said := string(tr.proc.tail()); !strings.Contains(said, "attached") {
			return fmt.Errorf("strace says %q", said)
		}
		return nil
	})
	return tr
}

// sendfileResult matches what a call of sendfile has sent, also when the line is the end of a call that another thread interrupted.
var sendfileResult = regexp.MustCompile(`sendfile.*= (\d+)$`)

// requireSent wants nine tenths of a blob to have gone by sendfile: the rest leaves room for a first piece sent together with the header.
func (tr *trace) requireSent(t *testing.T, size int64) {
	t.Helper()
	tr.proc.stop()
	calls, err := os.ReadFile(tr.calls)
	if err != nil {
		t.Fatal(err)
	}
	var sent int64
	for line := range strings.Lines(string(calls)) {
		if found := sendfileResult.FindStringSubmatch(strings.TrimSpace(line)); found != nil {
			n, err := strconv.ParseInt(found[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			sent += n
		}
	}
	if sent < size/10*9 {
		t.Errorf("sendfile has sent %d bytes of a blob of %d:\n%.2000s", sent, size, calls)
	}
}

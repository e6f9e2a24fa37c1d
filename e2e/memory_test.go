//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Memory does not grow with the size of a blob: 64 clients of a blob of 2 GB cost no more than 64 clients of one of 1 MB, while it is fetched
// and when it is cached.
func TestMemoryFlat(t *testing.T) {
	const (
		small, large = 1 << 20, 2 << 30
		// bound is less than one byte in forty of the large blob, and less than 64 clients would need with 1 MiB each.
		bound = 48 << 20
	)
	o := &origin{blobs: map[digest.Digest]func() io.ReadSeeker{}}
	url := o.serve(t)
	hashes := map[int64]digest.Digest{}
	for _, size := range []int64{small, large} {
		blob := newEndless(size)
		hash, err := digest.FromReader(blob)
		if err != nil {
			t.Fatal(err)
		}
		hashes[size], o.blobs[hash] = hash, blob.again
	}
	for _, state := range []string{"cold", "cached"} {
		d := startDaemon(t, url)
		if state == "cached" {
			for size, hash := range hashes {
				readTogether(t, d, 1, hash, newEndless(size))
			}
		}
		peak := map[int64]int64{}
		for _, size := range []int64{small, large} {
			resetPeak(t, d)
			readTogether(t, d, 64, hashes[size], newEndless(size))
			peak[size] = peakMemory(t, d)
		}
		t.Logf("%s: the peak is %d KB for 1 MB and %d KB for 2 GB", state, peak[small]>>10, peak[large]>>10)
		if peak[large]-peak[small] > bound {
			t.Errorf("%s: the peak grew from %d to %d bytes with the blob", state, peak[small], peak[large])
		}
		d.proc.stop()
		if err := os.RemoveAll(d.root); err != nil {
			t.Error(err)
		}
	}
}

// readTogether lets clients read a blob at once: the first all of it, each of the others a part of its own, so that together they have all of
// it once more. Large blobs are read 64 times in parts because 128 GB would say the same and take minutes.
func readTogether(t *testing.T, d *daemon, clients int64, hash digest.Digest, want *endless) {
	t.Helper()
	var group errgroup.Group
	group.Go(func() error {
		n, err := newClient(t, d.addr).blob(t.Context(), "team/large", hash, nil)
		if err == nil && n != want.size {
			err = fmt.Errorf("read %d bytes of %d", n, want.size)
		}
		return err
	})
	for i := int64(1); i < clients; i++ {
		from, to := want.size*(i-1)/(clients-1), want.size*i/(clients-1)
		group.Go(func() error { return readPart(t, d, hash, want, from, to) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

// readPart reads the bytes [from, to) of a blob and compares them.
func readPart(t *testing.T, d *daemon, hash digest.Digest, want *endless, from, to int64) error {
	header := http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", from, to-1)}}
	resp, err := newClient(t, d.addr).get(t.Context(), "team/large", "blobs/"+hash.String(), header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPartialContent {
		return fmt.Errorf("a range was answered with %s", resp.Status)
	}
	expected := want.again()
	if _, err := expected.Seek(from, io.SeekStart); err != nil {
		return err
	}
	got, exp := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := from; at < to; {
		n := min(int64(len(got)), to-at)
		if _, err := io.ReadFull(resp.Body, got[:n]); err != nil {
			return fmt.Errorf("range %d-%d at %d: %w", from, to, at, err)
		}
		if _, err := io.ReadFull(expected, exp[:n]); err != nil {
			return err
		}
		if !bytes.Equal(got[:n], exp[:n]) {
			return fmt.Errorf("range %d-%d at %d: %w", from, to, at, errWrongBytes)
		}
		at += n
	}
	return nil
}

// resetPeak makes the kernel forget the highest resident size of the daemon (proc(5), clear_refs).
func resetPeak(t *testing.T, d *daemon) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", d.proc.cmd.Process.Pid), []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
}

// peakMemory is the highest resident size of the daemon in bytes, since it was reset.
func peakMemory(t *testing.T, d *daemon) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.proc.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kilobytes int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kilobytes); err == nil {
			return kilobytes << 10
		}
	}
	t.Fatal("the kernel tells no VmHWM")
	return 0
}

//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// content gives an origin a blob and its descriptor.
func (o *origin) content(content []byte) specs.Descriptor {
	hash := digest.FromBytes(content)
	o.blobs[hash] = func() io.ReadSeeker { return bytes.NewReader(content) }
	return specs.Descriptor{MediaType: specs.MediaTypeImageLayer, Digest: hash, Size: int64(len(content))}
}

// image gives an origin an image of one layer of random bytes under a tag, and the digests of all its blobs.
func (o *origin) image(t *testing.T, tag string, size int, seed uint64) []digest.Digest {
	t.Helper()
	layer := o.content(randomBytes(size, seed))
	config := o.content([]byte(fmt.Sprintf(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, layer.Digest)))
	config.MediaType = specs.MediaTypeImageConfig
	manifest := specs.Manifest{MediaType: specs.MediaTypeImageManifest, Config: config, Layers: []specs.Descriptor{layer}}
	manifest.SchemaVersion = 2
	content, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	hash := digest.FromBytes(content)
	o.manifests[tag], o.manifests[hash.String()] = content, content
	return []digest.Digest{hash, config.Digest, layer.Digest}
}

// count counts from now on how often a blob is asked for.
func (o *origin) count(hash digest.Digest) *atomic.Int64 {
	n, give := new(atomic.Int64), o.blobs[hash]
	o.blobs[hash] = func() io.ReadSeeker {
		n.Add(1)
		return give()
	}
	return n
}

func newOrigin() *origin {
	return &origin{manifests: map[string][]byte{}, blobs: map[digest.Digest]func() io.ReadSeeker{}}
}

// requireHeld waits until a pull has left all blobs of an image in the store.
func (d *daemon) requireHeld(t *testing.T, c *client, tag string, hashes []digest.Digest) {
	t.Helper()
	eventually(t, tag+" is stored", func() error {
		if _, err := c.pull(t.Context(), "team/app", tag); err != nil {
			return err
		}
		for _, hash := range hashes {
			if !d.holds(hash) {
				return fmt.Errorf("%s is not here", hash)
			}
		}
		return nil
	})
}

// One file operation of the daemon fails while an image is pulled: the first of its kind, the second, and so on until there are no more. Each
// pull succeeds nevertheless, past the store where it must, and as soon as the disk is well the same image is stored, by the same process.
func TestPullWhileTheDiskFails(t *testing.T) {
	const most = 60 // a pull does fewer operations of one kind
	for _, operation := range []string{"openat", "pwrite64", "fsync", "fdatasync", "/^rename", "/^unlink"} {
		t.Run(strings.Trim(operation, "/^"), func(t *testing.T) {
			o := newOrigin()
			images := map[string][]digest.Digest{}
			for n := 1; n <= most; n++ {
				tag := fmt.Sprint("n", n)
				images[tag] = o.image(t, tag, 3<<19, uint64(n)) // large enough for a journal
			}
			d := startDaemon(t, o.serve(t))
			c := newClient(t, d.addr)
			for n := 1; n <= most; n++ {
				tag, errno := fmt.Sprint("n", n), []string{"EIO", "ENOSPC"}[n%2]
				failed := d.whileFailing(t, operation, errno, n, func() {
					if _, err := c.pull(t.Context(), "team/app", tag); err != nil {
						t.Errorf("%s at %s %d: %v", errno, operation, n, err)
					}
				})
				if n == 1 && !failed {
					t.Error("no operation failed: the pull was not put to the test")
				}
				if t.Failed() || !failed {
					break
				}
				d.requireHeld(t, c, tag, images[tag])
			}
			d.requireTrueStore(t)
		})
	}
}

// whileFailing lets the nth operation fail, in each thread of the daemon, while work is done, and tells whether any did.
func (d *daemon) whileFailing(t *testing.T, operation, errno string, n int, work func()) bool {
	t.Helper()
	trace := filepath.Join(t.TempDir(), "trace")
	p := start(t, "strace", exec.Command(debian("strace"), "-f", "-p", fmt.Sprint(d.proc.cmd.Process.Pid), "-o", trace,
		"-e", "trace="+operation, "-e", fmt.Sprintf("inject=%s:error=%s:when=%d", operation, errno, n)))
	eventually(t, "strace holds all threads", func() error { return d.requireTraced(t) })
	work()
	d.rest(t, trace)
	p.stop()
	calls, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	if t.Failed() {
		t.Logf("%s", calls)
	}
	return bytes.Contains(calls, []byte("(INJECTED)"))
}

// rest waits until the daemon, which seals when its clients have gone already, does nothing any more that is traced. Were it to stop too early
// it would miss faults, and nothing would seem right that is wrong.
func (d *daemon) rest(t *testing.T, trace string) {
	t.Helper()
	var size, quiet int64 = -1, 0
	eventually(t, "the daemon rests", func() error {
		info, err := os.Stat(trace)
		if err != nil {
			return err
		}
		quiet++
		if info.Size() != size {
			size, quiet = info.Size(), 0
		}
		if quiet < 5 {
			return errors.New("it works")
		}
		return nil
	})
}

// requireTraced fails until every thread of the daemon is being traced.
func (d *daemon) requireTraced(t *testing.T) error {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", d.proc.cmd.Process.Pid))
	if err != nil || len(threads) == 0 {
		return fmt.Errorf("no threads, %v", err)
	}
	for _, thread := range threads {
		status, err := os.ReadFile(thread)
		if err != nil {
			return err
		}
		if strings.Contains(string(status), "TracerPid:\t0\n") {
			return errors.New(thread)
		}
	}
	return nil
}

// A disk of 64 MB fills up: what does not fit goes past the store, to fifty clients at once too. What is kept is true, and when there is room
// again the same process stores again.
func TestDiskThatFillsUp(t *testing.T) {
	o := newOrigin()
	small, large := o.image(t, "small", 4<<20, 81), o.image(t, "large", 30<<20, 82)
	o.image(t, "huge", 100<<20, 83)
	d := newDaemon(t, o.serve(t))
	if err := os.Mkdir(d.root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", d.root, "tmpfs", 0, "size=64m,mode=0700"); err != nil {
		t.Fatalf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(d.root, 0); err != nil {
			t.Error(err)
		}
	})
	// A fresh file system may have this folder, and the store leaves it alone.
	if err := os.Mkdir(filepath.Join(d.root, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(d.root, "lost+found", "ballast")
	if err := os.WriteFile(ballast, make([]byte, 44<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	d.start(t)
	c := newClient(t, d.addr)
	c.mustPull(t, "team/app", "large") // alone, and then fifty at once
	var clients errgroup.Group
	var together sync.WaitGroup
	together.Add(50)
	for range 50 {
		clients.Go(func() error {
			c := newClient(t, d.addr)
			together.Done()
			together.Wait()
			_, err := c.pull(t.Context(), "team/app", "large")
			return err
		})
	}
	if err := clients.Wait(); err != nil {
		t.Errorf("on a full disk: %v", err)
	}
	if d.holds(large[2]) {
		t.Error("30 MB were stored in 20 MB")
	}
	if status := d.status(t); status.Bypassed == 0 || status.Flights != 0 {
		t.Errorf("status %+v", status)
	}
	d.requireTrueStore(t)
	asked := o.count(large[2])
	c.mustPull(t, "team/app", "large")
	if n := asked.Load(); n != 1 {
		t.Errorf("upstream was asked %d times for what is known not to fit", n)
	}
	if err := d.ready(); err != nil {
		t.Errorf("with a full disk: %v", err)
	}
	d.requireHeld(t, c, "small", small) // the space of what did not fit was given back
	c.mustPull(t, "team/app", "huge")
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	d.requireHeld(t, c, "large", large)
	d.requireTrueStore(t)
	var usage struct{ Capacity, Free uint64 }
	if err := json.Unmarshal([]byte(d.mustRun(t, "df", "-o", "json")), &usage); err != nil {
		t.Fatal(err)
	}
	if usage.Capacity != 64<<20 || usage.Free > 34<<20 {
		t.Errorf("df says %+v", usage)
	}
}

// standing is what the status says of a store in distress.
type standing struct {
	Writable bool
	Bypassed int64
	Flights  int
}

func (d *daemon) status(t *testing.T) (s standing) {
	t.Helper()
	if err := json.Unmarshal([]byte(d.mustRun(t, "status", "-o", "json")), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

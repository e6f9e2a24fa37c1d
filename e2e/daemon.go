//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// daemon is an imagecache on a store root and an address of its own, which it keeps when it is started again.
type daemon struct {
	addr  string // of the mirror, host:port
	admin string
	root  string
	dir   string
	proc  *process
	// web reaches a mirror that speaks TLS; nil: it speaks plain http.
	web *http.Client
	// through is the beginning of a command line through which the daemon is started; none: it is started as it is.
	through []string
}

// newDaemon writes settings for an imagecache whose one upstream is at url and wants the puller's credentials; more are further keys of
// that upstream, a line each. Nothing is started.
func newDaemon(t *testing.T, url string, more ...string) *daemon {
	t.Helper()
	dir, err := os.MkdirTemp(scratch, "d-") // short: the socket lies in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	d := &daemon{addr: freeAddress(t), admin: "unix://" + filepath.Join(dir, "s"), root: filepath.Join(dir, "root"), dir: dir}
	password := filepath.Join(dir, "password")
	if err := os.WriteFile(password, []byte(pullerPassword+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	settings := fmt.Sprintf("listen = %q\nadmin = %q\nroot = %q\n\n[upstreams.%q]\nurl = %q\nusername = %q\npassword_file = %q\n%s\n",
		d.addr, d.admin, d.root, upstreamName, url, puller, password, strings.Join(more, "\n"))
	if err := os.WriteFile(d.config(), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	return d
}

// startDaemon is newDaemon, started.
func startDaemon(t *testing.T, url string, more ...string) *daemon {
	t.Helper()
	d := newDaemon(t, url, more...)
	d.start(t)
	return d
}

func (d *daemon) config() string { return filepath.Join(d.dir, "config.toml") }

// command is imagecache with arguments, in an environment that holds nobody's credentials.
func (d *daemon) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, imagecache(t), args...)
	cmd.Env = []string{"PATH=/nowhere", "HOME=" + d.dir, "DOCKER_CONFIG=" + d.dir, "IMAGECACHE_ADMIN=" + d.admin}
	return cmd
}

// start starts the daemon, for the first time or again, and waits until it is ready.
func (d *daemon) start(t *testing.T) {
	t.Helper()
	args := append(slices.Clone(d.through), imagecache(t), "serve", "--config", d.config())
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = []string{"PATH=/nowhere", "HOME=" + d.dir, "DOCKER_CONFIG=" + d.dir}
	d.proc = start(t, "imagecache", cmd)
	eventually(t, "imagecache is ready", func() error {
		if d.proc.ended() {
			t.Fatalf("imagecache ended: %s", d.proc.cmd.ProcessState)
		}
		return d.ready()
	})
}

// ready asks /readyz.
func (d *daemon) ready() error {
	get, scheme := http.Get, "http"
	if d.web != nil {
		get, scheme = d.web.Get, "https"
	}
	resp, err := get(scheme + "://" + d.addr + "/readyz")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// restart ends the daemon as a system does and starts it again.
func (d *daemon) restart(t *testing.T) {
	t.Helper()
	d.proc.stop()
	if code := d.proc.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("imagecache ended with exit code %d after SIGTERM", code)
	}
	d.start(t)
}

// mustRun runs a command of imagecache against this daemon and gives what it printed.
func (d *daemon) mustRun(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr strings.Builder
	cmd := d.command(t, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("imagecache %s: %v\n%s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// install names this daemon as a mirror for every registry in a folder of hosts.
func (d *daemon) install(t *testing.T, hosts string) {
	t.Helper()
	d.mustRun(t, "containerd", "install", "--yes", "--config-path", hosts, "--mirror", "http://"+d.addr)
}

// mustFail runs a command of imagecache that must fail and gives its exit code and what it said.
func (d *daemon) mustFail(t *testing.T, args ...string) (code int, said string) {
	t.Helper()
	out, err := d.command(t, args...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() < 0 {
		t.Fatalf("imagecache %s: want a failure, got %v\n%s", strings.Join(args, " "), err, out)
	}
	return exit.ExitCode(), string(out)
}

// requireTrueStore hashes every file under blobs: each must be named by its digest.
func (d *daemon) requireTrueStore(t *testing.T) {
	t.Helper()
	d.eachBlob(t, func(hash digest.Digest, path string) {
		content, err := os.Open(path)
		if err != nil {
			t.Error(err)
			return
		}
		defer content.Close()
		verifier := hash.Verifier()
		if _, err := io.Copy(verifier, content); err != nil {
			t.Error(err)
		} else if !verifier.Verified() {
			t.Errorf("the store holds wrong bytes under %s", hash)
		}
	})
}

// eachBlob calls visit for each file under blobs/<algorithm>/<hex>. Files that are not so named are errors.
func (d *daemon) eachBlob(t *testing.T, visit func(hash digest.Digest, path string)) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(d.root, "blobs", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		name := filepath.Base(filepath.Dir(path)) + ":" + filepath.Base(path)
		hash, err := digest.Parse(name)
		if err != nil {
			t.Errorf("blobs/ holds %s: %v", name, err)
			continue
		}
		visit(hash, path)
	}
}

// holds tells whether the store has a blob for good.
func (d *daemon) holds(hash digest.Digest) bool {
	_, err := os.Stat(filepath.Join(d.root, "blobs", hash.Algorithm().String(), hash.Encoded()))
	return err == nil
}

// tree gives all files of a folder with their content, to show that nothing was changed.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var all bytes.Buffer
	err := filepath.WalkDir(dir, func(path string, found os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := found.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&all, "%s %v", path, info.Mode())
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&all, " %x", content)
		}
		all.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

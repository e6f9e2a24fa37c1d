//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Point 8: bad input gets a clear error and the right status or exit code, and harms nothing.
func TestBadInput(t *testing.T) {
	t.Run("requests", badRequests)
	t.Run("a manifest of 5 MB", manifestTooLarge)
	t.Run("settings", badSettings)
	t.Run("store root", badRoots)
	t.Run("port in use", portInUse)
}

// badRequests sends what no client should and then pulls as if nothing had been.
func badRequests(t *testing.T) {
	upstream := startRegistry(t, nil)
	pushed := upstream.push(t, "team/app:1", busyboxImage(t, "fine"))
	d := startDaemon(t, upstream.url())
	before := len(upstream.answeredLines(t))
	hex := strings.Repeat("0123456789abcdef", 4)
	for _, test := range []struct {
		name, target string
		statuses     []int
	}{
		{"a path with ..", "/v2/../../etc/passwd", []int{400, 404}},
		{"a repository with ..", "/v2/team/../app/manifests/1?ns=registry.test", []int{400, 404}},
		{"an escaped ..", "/v2/team/%2e%2e/app/manifests/1?ns=registry.test", []int{400, 404}},
		{"an escaped slash", "/v2/team%2f..%2fapp/manifests/1?ns=registry.test", []int{400, 404}},
		{"a zero byte", "/v2/team/app%00/manifests/1?ns=registry.test", []int{400, 404}},
		{"an upper-case repository", "/v2/TEAM/app/manifests/1?ns=registry.test", []int{400, 404}},
		{"a repository of 5000 letters", "/v2/" + strings.Repeat("a", 5000) + "/manifests/1?ns=registry.test", []int{400, 404, 414}},
		{"a digest too short", "/v2/team/app/blobs/sha256:abc?ns=registry.test", []int{400}},
		{"a digest of an unknown algorithm", "/v2/team/app/blobs/md5:d41d8cd98f00b204e9800998ecf8427e?ns=registry.test", []int{400}},
		{"a digest with upper-case letters", "/v2/team/app/blobs/sha256:" + strings.ToUpper(hex) + "?ns=registry.test", []int{400}},
		{"a digest with a path in it", "/v2/team/app/blobs/sha256:..%2f..%2f" + hex + "?ns=registry.test", []int{400, 404}},
		{"no digest", "/v2/team/app/blobs/?ns=registry.test", []int{400, 404}},
		{"a tag that cannot be", "/v2/team/app/manifests/-bad?ns=registry.test", []int{400, 404}},
		{"an unknown registry", "/v2/team/app/manifests/1?ns=unknown.test", []int{404}},
		{"an unknown registry in the path", "/v2/unknown.test/team/app/manifests/1", []int{404}},
		{"a registry that is an address to dial", "/v2/team/app/manifests/1?ns=" + upstream.addr, []int{404}},
		{"a registry that is a url", "/v2/team/app/manifests/1?ns=http://" + upstream.addr + "/", []int{400, 404}},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, body := rawGet(t, d.addr, test.target)
			requireOCIError(t, status, body, test.statuses)
		})
	}
	if lines := upstream.answeredLines(t); len(lines) != before {
		t.Errorf("bad requests reached upstream: %+v", lines[before:])
	}
	if got := newClient(t, d.addr).mustPull(t, "team/app", "1"); got != pushed {
		t.Errorf("pulled %s, want %s", got, pushed)
	}
	d.requireTrueStore(t)
}

// rawGet sends a request line as it stands: an HTTP client would clean it.
func rawGet(t *testing.T, addr, target string) (status int, body []byte) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", target, addr)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

// requireOCIError wants one of the statuses and a body as the distribution specification says ("Error Codes").
func requireOCIError(t *testing.T, status int, body []byte, statuses []int) {
	t.Helper()
	var told struct {
		Errors []struct{ Code, Message string } `json:"errors"`
	}
	if !slices.Contains(statuses, status) {
		t.Errorf("answered %d, want one of %v: %.500s", status, statuses, body)
	}
	if err := json.Unmarshal(body, &told); err != nil || len(told.Errors) == 0 || told.Errors[0].Code == "" || told.Errors[0].Message == "" {
		t.Errorf("the body is no OCI error: %.500s", body)
	}
}

// manifestTooLarge lets upstream answer with a manifest larger than the 4 MiB that the distribution specification asks registries to take.
func manifestTooLarge(t *testing.T) {
	content, err := json.Marshal(specs.Manifest{MediaType: specs.MediaTypeImageManifest, Annotations: map[string]string{"pad": strings.Repeat("x", 5<<20)}})
	if err != nil {
		t.Fatal(err)
	}
	o := &origin{manifests: map[string][]byte{"1": content}}
	d := startDaemon(t, o.serve(t))
	status, body := rawGet(t, d.addr, "/v2/team/app/manifests/1?ns="+upstreamName)
	requireOCIError(t, status, body, []int{http.StatusBadGateway})
	blobs, err := filepath.Glob(filepath.Join(d.root, "blobs", "*", "*"))
	if err != nil || len(blobs) > 0 {
		t.Errorf("the store holds %q (%v)", blobs, err)
	}
	if err := d.ready(); err != nil {
		t.Errorf("afterwards imagecache is not ready: %v", err)
	}
}

// badSettings wants each mistake to be named with its line, and nothing to be made at the root.
func badSettings(t *testing.T) {
	for name, test := range map[string]struct {
		settings string
		says     []string
	}{
		"an unknown key":        {"listen = \"127.0.0.1:0\"\nlissten = \"x\"\n", []string{"lissten", "2"}},
		"an unknown nested key": {"[upstreams.\"registry.test\"]\nurl = \"http://127.0.0.1:1\"\nttl = \"1m\"\n", []string{"ttl", "3"}},
		"a duration that is not one": {
			"[upstreams.\"registry.test\"]\nurl = \"http://127.0.0.1:1\"\ntag_ttl = \"soon\"\n", []string{"tag_ttl", "soon", "3"}},
		"no TOML": {"listen = \n", []string{"1"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t, "http://127.0.0.1:1")
			if err := os.WriteFile(d.config(), []byte(test.settings), 0o600); err != nil {
				t.Fatal(err)
			}
			code, said := d.mustFail(t, "serve", "--config", d.config(), "--root", d.root, "--admin", d.admin)
			requireClearError(t, code, said, append(test.says, d.config())...)
			if _, err := os.Stat(d.root); !os.IsNotExist(err) {
				t.Errorf("something was made at the root: %v", err)
			}
		})
	}
}

// requireClearError wants an exit code of a command that failed or was used wrongly, and an error for people that names these things.
func requireClearError(t *testing.T, code int, said string, names ...string) {
	t.Helper()
	if code != 1 && code != 2 {
		t.Errorf("exit code %d, want 1 or 2", code)
	}
	for _, name := range names {
		if !strings.Contains(said, name) {
			t.Errorf("the error does not name %q", name)
		}
	}
	if strings.Contains(said, "goroutine ") {
		t.Error("it panicked")
	}
	if t.Failed() {
		t.Logf("it said:\n%s", said)
	}
}

// badRoots tries to start on roots that are not ours to write.
func badRoots(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, root string){
		"a folder of somebody else": func(t *testing.T, root string) {
			mustWrite(t, filepath.Join(root, "thesis.txt"), "the only copy")
			mustWrite(t, filepath.Join(root, "blobs", "photo"), "of my cat")
		},
		"a file": func(t *testing.T, root string) {
			mustWrite(t, root, "not a folder")
		},
		"a folder that cannot be written": func(t *testing.T, root string) {
			if err := os.Mkdir(root, 0o700); err != nil {
				t.Fatal(err)
			}
			// As root no mode forbids writing; a file system that is mounted read-only does.
			if err := syscall.Mount("tmpfs", root, "tmpfs", syscall.MS_RDONLY, "size=1m"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := syscall.Unmount(root, 0); err != nil {
					t.Error(err)
				}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t, "http://127.0.0.1:1")
			prepare(t, d.root)
			before := tree(t, d.root)
			code, said := d.mustFail(t, "serve", "--config", d.config())
			requireClearError(t, code, said, d.root)
			if after := tree(t, d.root); after != before {
				t.Errorf("the root was changed from\n%s\nto\n%s", before, after)
			}
		})
	}
	t.Run("a root in use", func(t *testing.T) {
		upstream := startRegistry(t, nil)
		upstream.push(t, "team/app:1", busyboxImage(t, "fine"))
		running, second := startDaemon(t, upstream.url()), newDaemon(t, upstream.url())
		code, said := second.mustFail(t, "serve", "--config", second.config(), "--root", running.root)
		requireClearError(t, code, said, running.root)
		newClient(t, running.addr).mustPull(t, "team/app", "1")
	})
}

func mustWrite(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// portInUse starts a second daemon on the address of the first.
func portInUse(t *testing.T) {
	upstream := startRegistry(t, nil)
	upstream.push(t, "team/app:1", busyboxImage(t, "fine"))
	running, second := startDaemon(t, upstream.url()), newDaemon(t, upstream.url())
	code, said := second.mustFail(t, "serve", "--config", second.config(), "--listen", running.addr)
	requireClearError(t, code, said, running.addr)
	newClient(t, running.addr).mustPull(t, "team/app", "1")
	if _, err := os.Stat(strings.TrimPrefix(second.admin, "unix://")); !os.IsNotExist(err) {
		t.Errorf("a socket was left at %s: %v", second.admin, err)
	}
}

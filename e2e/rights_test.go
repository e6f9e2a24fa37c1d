//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// as gives a client with a login of its own; "" has none.
func as(t *testing.T, d *daemon, user, password string) *client {
	t.Helper()
	c := newClient(t, d.addr)
	if user != "" {
		c.http.Transport = basic(user, password)
	}
	return c
}

// ask sends one request and gives its status and how many bytes of a body came.
func (c *client) ask(t *testing.T, method, repository, what string, header http.Header) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, c.url(repository, what), nil)
	if err != nil {
		t.Fatal(err)
	}
	for key, values := range header {
		req.Header[key] = values
	}
	req.Header.Add("Accept", specs.MediaTypeImageManifest)
	req.Header.Add("Accept", "application/vnd.docker.distribution.manifest.v2+json")
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(content)
}

// private is an image that is in team/app, and who must not have it.
type private struct {
	guarded *guarded
	daemon  *daemon
	image   v1.Image
	digest  digest.Digest
	blobs   []digest.Digest // config first
}

// shut checks that nobody without a right gets anything by any path.
func (p *private) shut(t *testing.T, when string) {
	t.Helper()
	what := []string{"manifests/v1", "manifests/" + p.digest.String(), "tags/list", "referrers/" + p.digest.String()}
	for _, b := range p.blobs {
		what = append(what, "blobs/"+b.String())
	}
	for name, c := range map[string]*client{
		"bob": as(t, p.daemon, bob, bobPassword), "mallory": as(t, p.daemon, ann, "a guess"), "nobody": as(t, p.daemon, "", ""),
	} {
		for _, w := range what {
			// team/other holds nothing of it, and the digests are known to everybody here.
			for _, repository := range []string{"team/app", "team/other"} {
				for _, method := range []string{http.MethodGet, http.MethodHead} {
					p.requireNothing(t, when+", "+name, c, method, repository, w, nil)
				}
			}
		}
		p.requireNothing(t, when+", "+name, c, http.MethodGet, "team/app", "blobs/"+p.blobs[1].String(), http.Header{"Range": {"bytes=10-19"}})
	}
}

func (p *private) requireNothing(t *testing.T, when string, c *client, method, repository, what string, header http.Header) {
	t.Helper()
	if repository == "team/other" && (strings.HasPrefix(what, "referrers/") || !strings.Contains(what, "sha256:")) {
		return // bob's own, and that nothing refers to it there
	}
	if status, body := c.ask(t, method, repository, what, header); status < 400 {
		t.Errorf("%s: %s %s/%s is answered %d, with %d bytes", when, method, repository, what, status, len(body))
	}
}

// served checks that ann gets all of it.
func (p *private) served(t *testing.T, when string) {
	t.Helper()
	c := as(t, p.daemon, ann, annPassword)
	for _, reference := range []string{"v1", p.digest.String()} {
		if got, err := c.pull(t.Context(), "team/app", reference); err != nil || got != p.digest {
			t.Errorf("%s: ann pulls %s: %s, %v", when, reference, got, err)
		}
	}
	status, body := c.ask(t, http.MethodGet, "team/app", "blobs/"+p.blobs[1].String(), http.Header{"Range": {"bytes=10-19"}})
	if status != http.StatusPartialContent || len(body) != 10 {
		t.Errorf("%s: ann asks for a range: %d, %d bytes", when, status, len(body))
	}
}

// TestRights: what ann's right brought is for ann, whatever becomes of imagecache and of the registry. Nothing that anybody shows is
// found anywhere afterwards.
func TestRights(t *testing.T) {
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			g := startGuarded(t, k)
			image := randomImage(t, 1<<20, 77)
			p := &private{guarded: g, image: image, digest: g.push(t, "team/app:v1", image), blobs: blobsOf(t, image)}
			g.push(t, "team/other:v1", busyboxImage(t, "bob's own"))
			liar := startLiar(t, g.url())
			p.daemon = startDaemon(t, liar.server.URL, `access = "proven"`, `tag_ttl = "1ms"`)
			p.shut(t, "cold")
			p.inFlight(t, liar)
			p.served(t, "warm")
			p.shut(t, "warm")
			p.daemon.restart(t)
			p.served(t, "after a restart")
			p.shut(t, "after a restart")
			g.proc.kill()
			p.served(t, "stale")
			p.shut(t, "stale")
			p.daemon.restart(t)
			p.served(t, "after a restart without upstream")
			p.shut(t, "after a restart without upstream")
			p.requireNoSecrets(t)
		})
	}
}

// inFlight has ann pull, and asks for others while the layer is on its way.
func (p *private) inFlight(t *testing.T, liar *liar) {
	t.Helper()
	gate := newGate(100 << 10)
	liar.about(p.blobs[1], gated(gate))
	done := make(chan error, 1)
	c := as(t, p.daemon, ann, annPassword)
	go func() {
		_, err := c.pull(t.Context(), "team/app", "v1")
		done <- err
	}()
	eventually(t, "the layer is on its way", func() error { return liar.requireSent(p.blobs[1], 50<<10) })
	p.shut(t, "in flight")
	gate.open()
	if err := <-done; err != nil {
		t.Errorf("ann's first pull: %v", err)
	}
}

// requireNoSecrets looks for everything secret wherever others could read.
func (p *private) requireNoSecrets(t *testing.T) {
	t.Helper()
	secrets := map[string]string{"ann's password": annPassword, "bob's password": bobPassword, "our password": pullerPassword}
	for _, c := range [][2]string{{ann, annPassword}, {bob, bobPassword}, {puller, pullerPassword}} {
		secrets["the login of "+c[0]] = strings.TrimPrefix(string(basic(c[0], c[1])), "Basic ")
	}
	if p.guarded.tokens != nil {
		for i, token := range p.guarded.tokens.tokens() {
			secrets[fmt.Sprintf("token %d", i)] = token[strings.LastIndex(token, ".")+1:]
		}
	}
	places := map[string]string{}
	for _, args := range [][]string{{"status", "-o", "json"}, {"images", "-o", "json"}, {"config", "-o", "json"}, {"pins", "-o", "json"}, {"df", "-o", "json"}} {
		places[strings.Join(args, " ")] = p.daemon.mustRun(t, args...)
	}
	resp, err := http.Get("http://" + p.daemon.addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := io.ReadAll(resp.Body)
	if resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	places["metrics"] = string(metrics)
	proc := fmt.Sprintf("/proc/%d/", p.daemon.proc.cmd.Process.Pid)
	for _, path := range []string{p.daemon.proc.log, proc + "cmdline", proc + "environ"} {
		places[filepath.Base(path)] = read(t, path)
	}
	err = filepath.WalkDir(p.daemon.root, func(path string, found fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a temporary file
		}
		if err == nil && found.Type().IsRegular() && !strings.Contains(path, "/blobs/") {
			places[path] = read(t, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for place, text := range places {
		for secret, value := range secrets {
			if strings.Contains(text, value) {
				t.Errorf("%s is in %s", secret, place)
			}
		}
	}
	if len(places) < 10 {
		t.Errorf("only %d places were looked at", len(places))
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(content)
}

// TestAccountLocked: the registry refuses our login, and everything that is cached is served.
func TestAccountLocked(t *testing.T) {
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			g := startGuarded(t, k)
			want := g.push(t, "team/app:v1", busyboxImage(t, "cached"))
			g.push(t, "team/app:v2", busyboxImage(t, "never asked for"))
			d := startDaemon(t, g.url(), `tag_ttl = "1ms"`)
			c := newClient(t, d.addr)
			c.mustPull(t, "team/app", "v1")
			d.mustRun(t, "pin", upstreamName+"/team/app:v1")
			g.lock(t, puller)
			if g.tokens != nil {
				d.restart(t) // or it would go on with the token that it has
			}
			for range 3 {
				if got := c.mustPull(t, "team/app", "v1"); got != want {
					t.Errorf("pulled %s, want %s", got, want)
				}
			}
			d.mustRun(t, "unpin", upstreamName+"/team/app:v1")
			answer, err := c.manifest(t.Context(), "team/app", "v1")
			if err != nil || answer.digest != want || !strings.Contains(answer.header.Get("Cache-Status"), "fwd=stale") {
				t.Errorf("the tag that is not pinned is answered %+v, %v", answer, err)
			}
			var refused *statusError
			if _, err := c.manifest(t.Context(), "team/app", "v2"); !errors.As(err, &refused) || refused.status != http.StatusUnauthorized && refused.status != http.StatusForbidden {
				t.Errorf("what is not cached is answered %v", err)
			}
			if out := d.mustRun(t, "drill", upstreamName+"/team/app:v1"); !strings.Contains(out, "refuses our credential") {
				t.Errorf("drill says %s", out)
			}
		})
	}
}

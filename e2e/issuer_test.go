//go:build e2e

package e2e

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// TestCallersOfAnIssuer: tokens of a real provider are taken as bearers and as passwords of every client, whatever state the provider is in, and only
// those that are meant for us.
func TestCallersOfAnIssuer(t *testing.T) {
	t.Parallel()
	i := startIssuer(t)
	token, others := i.token(t, "imagecache"), i.token(t, "another")
	i.proc.stop() // imagecache starts without it
	h := &home{daemon: newDaemon(t, "http://127.0.0.1:1", fmt.Sprintf("\n[access]\nissuers = [\"%s audience=imagecache username=email prefix=corp: ca_file=%s\"]\n"+
		"rules = [\"group:corp:dev pull,push local/team/**\", \"oidc:corp:%s pull,push,delete local/own/**\", \"group:ops pull local/ops/**\"]\n", i.url(), i.ca, issuerEmail)), dir: t.TempDir()}
	h.daemon.start(t)
	const allowed, refused = "/v2/local/team/none/manifests/v1", "/v2/local/ops/none/manifests/v1"
	want := func(what, token, path string, status int) {
		t.Helper()
		resp, body, err := bearer(t.Context(), h.daemon, token, path)
		if err != nil || resp.StatusCode != status {
			t.Errorf("%s: %v %s, %v, want %d", what, resp, body, err, status)
		}
	}
	soon := func(what, token, path string, status int) {
		t.Helper()
		eventually(t, what, func() error {
			resp, body, err := bearer(t.Context(), h.daemon, token, path)
			if err == nil && resp.StatusCode != status {
				err = fmt.Errorf("%s %s", resp.Status, body)
			}
			return err
		})
	}
	want("the issuer is down and its keys are not known", token, allowed, http.StatusServiceUnavailable)
	i.start(t)
	soon("the issuer is up", token, allowed, http.StatusNotFound)
	want("of a group that no rule knows by that name", token, refused, http.StatusForbidden)
	want("of another audience", others, allowed, http.StatusUnauthorized)
	want("cut short", token[:len(token)-4], allowed, http.StatusUnauthorized)

	image := busyboxImage(t, "an issuer")
	t.Run("crane", func(t *testing.T) { h.craneSignsIn(t, token, layoutOf(t, image)) })
	t.Run("skopeo", func(t *testing.T) { h.skopeoSignsIn(t, token, layoutOf(t, image)) })
	t.Run("containerd", func(t *testing.T) {
		c := startContainerdAlone(t, containerd24)
		c.ctr(t, "images", "pull", "--plain-http", "--user", "oauth:"+token, "--snapshotter", c.snapshotter, h.ref("team/crane:v1"))
		if got := c.digest(t, h.ref("team/crane:v1")); got != digestOf(t, image) {
			t.Errorf("it has %s", got)
		}
	})

	i.set(t, 1)
	soon("a token that has expired", i.token(t, "imagecache"), allowed, http.StatusUnauthorized)
	want("one of the same key that has not", token, allowed, http.StatusNotFound)
	i.newKey(t)
	i.set(t, 3600)
	rotated := i.token(t, "imagecache")
	soon("a token of a new key", rotated, allowed, http.StatusNotFound)
	i.proc.stop()
	want("the issuer is down and its keys are known", rotated, allowed, http.StatusNotFound)
	log := read(t, h.proc.log)
	for _, secret := range []string{token, rotated} {
		if strings.Contains(log, secret[strings.LastIndexByte(secret, '.')+1:]) {
			t.Error("the log tells a token")
		}
	}
	if !strings.Contains(log, "caller=oidc:corp:"+issuerEmail) {
		t.Error("the log does not tell who asked")
	}
}

// craneSignsIn logs in with a token as the password, and does what it may.
func (h *home) craneSignsIn(t *testing.T, token, layout string) {
	t.Helper()
	crane := built("crane")
	h.run(t, crane, "auth", "login", h.addr, "-u", "oauth", "-p", token)
	h.run(t, crane, "push", layout, h.ref("team/crane:v1"))
	h.run(t, crane, "push", layout, h.ref("own/crane:v1"))
	h.run(t, crane, "delete", h.ref("own/crane:v1"))
	if out, err := h.try(t, crane, "push", layout, h.ref("ops/crane:v1")); err == nil || !strings.Contains(out, "403") {
		t.Errorf("pushing where no rule allows it: %v, %s", err, out)
	}
	h.run(t, crane, "auth", "logout", h.addr)
	if out, err := h.try(t, crane, "manifest", h.ref("team/crane:v1")); err == nil || !strings.Contains(out, "UNAUTHORIZED") {
		t.Errorf("after logging out: %v, %s", err, out)
	}
}

// skopeoSignsIn does the same with skopeo, whose login is checked when it is made.
func (h *home) skopeoSignsIn(t *testing.T, token, layout string) {
	t.Helper()
	skopeo, logins := debian("skopeo"), "--authfile="+filepath.Join(t.TempDir(), "auth.json")
	if out, err := h.try(t, skopeo, "login", logins, "--tls-verify=false", "-u", "oauth", "-p", token[:len(token)-4], h.addr); err == nil {
		t.Errorf("logged in with half a token: %s", out)
	}
	h.run(t, skopeo, "login", logins, "--tls-verify=false", "-u", "oauth", "-p", token, h.addr)
	h.run(t, skopeo, "copy", logins, "--dest-tls-verify=false", "oci:"+layout, "docker://"+h.ref("team/skopeo:v1"))
	h.run(t, skopeo, "inspect", logins, "--tls-verify=false", "docker://"+h.ref("team/skopeo:v1"))
	if out, err := h.try(t, skopeo, "copy", logins, "--dest-tls-verify=false", "oci:"+layout, "docker://"+h.ref("ops/skopeo:v1")); err == nil {
		t.Errorf("pushed where no rule allows it: %s", out)
	}
}

// TestContainerdSignsIn to a cache with rules: by the login of the pull, and by a header of hosts.toml.
func TestContainerdSignsIn(t *testing.T) {
	t.Parallel()
	origin := startRegistry(t, nil)
	image := busyboxImage(t, "a ruled cache")
	want := origin.push(t, "team/app:v1", image)
	for _, version := range []containerdVersion{containerd16, containerd24} {
		t.Run(version.name, func(t *testing.T) {
			t.Parallel()
			d := startRuled(t, origin.url(), "user:"+homeUser+" pull "+upstreamName+"/**")
			c := startContainerdAlone(t, version)
			direct := d.addr + "/" + upstreamName + "/team/app:v1"
			pull := func(more ...string) error {
				args := append([]string{"--address", c.socket, "images", "pull", "--snapshotter", c.snapshotter}, more...)
				cmd := d.command(t)
				cmd.Path, cmd.Args = version.program("ctr"), append([]string{"ctr"}, args...)
				if out, err := cmd.CombinedOutput(); err != nil {
					return errors.New(string(out))
				}
				return nil
			}
			if err := pull("--plain-http", direct); err == nil {
				t.Error("pulled as nobody")
			}
			if err := pull("--plain-http", "--user", homeUser+":wrong", direct); err == nil {
				t.Error("pulled with a wrong password")
			}
			if err := pull("--plain-http", "--user", homeUser+":"+homePassword, direct); err != nil {
				t.Error(err)
			}
			if got := c.digest(t, direct); got != want {
				t.Errorf("it has %s, want %s", got, want)
			}
			writeHosts(t, c.hosts, d, base64.StdEncoding.EncodeToString([]byte(homeUser+":wrong")))
			if err := pull("--hosts-dir", c.hosts, upstreamName+"/team/app:v1"); err == nil {
				t.Error("pulled with a wrong header")
			}
			writeHosts(t, c.hosts, d, base64.StdEncoding.EncodeToString([]byte(homeUser+":"+homePassword)))
			if err := pull("--hosts-dir", c.hosts, upstreamName+"/team/app:v1"); err != nil {
				t.Error(err)
			}
			if got := c.digest(t, upstreamName+"/team/app:v1"); got != want {
				t.Errorf("it has %s, want %s", got, want)
			}
		})
	}
}

// startRuled starts a daemon with one user, and rules for it.
func startRuled(t *testing.T, url, rules string) *daemon {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(homePassword), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	passwords := filepath.Join(t.TempDir(), "htpasswd")
	write(t, passwords, fmt.Appendf(nil, "%s:%s\n", homeUser, hash))
	return startDaemon(t, url, fmt.Sprintf("\n[access]\nhtpasswd_file = %q\nrules = [%q]\n", passwords, rules))
}

// writeHosts names the daemon as the mirror of the upstream, with a login in the header.
func writeHosts(t *testing.T, hosts string, d *daemon, login string) {
	t.Helper()
	folder := filepath.Join(hosts, upstreamName)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(folder, "hosts.toml"), fmt.Appendf(nil, "server = \"http://127.0.0.1:1\"\n\n[host.\"http://%[1]s\"]\n  capabilities = [\"pull\", \"resolve\"]\n"+
		"  [host.\"http://%[1]s\".header]\n    Authorization = \"Basic %[2]s\"\n", d.addr, login))
}

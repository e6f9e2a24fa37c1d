//go:build e2e

package e2e

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// kind is one of the registries that rights are tried against.
type kind struct {
	name    string
	program func() string
	tokens  bool // by a token service; otherwise by htpasswd
}

// kinds are the registry of Debian 12, which is version 2.8, and version 3, with both ways to sign in.
func kinds() []kind {
	v2, v3 := func() string { return debian("docker-registry") }, func() string { return built("registry") }
	return []kind{{"v2 htpasswd", v2, false}, {"v2 tokens", v2, true}, {"v3 htpasswd", v3, false}, {"v3 tokens", v3, true}}
}

// guarded is a registry of some kind that can be stopped, and started again at its address.
type guarded struct {
	*registry
	kind  kind
	dir   string
	users map[string]string // of htpasswd; with tokens the token service knows
}

// startGuarded starts a registry in which ann may pull from team/app, and bob, where there are tokens, from team/other. htpasswd knows no
// rights: there bob is nobody whom it knows.
func startGuarded(t *testing.T, k kind) *guarded {
	t.Helper()
	dir := t.TempDir()
	g := &guarded{kind: k, dir: dir, registry: &registry{addr: freeAddress(t), storage: filepath.Join(dir, "storage")}}
	g.users = map[string]string{puller: pullerPassword, pusher: pusherPassword, ann: annPassword}
	if k.tokens {
		g.tokens = startTokenService(t)
		g.tokens.allow(ann, annPassword, "team/app")
		g.tokens.allow(bob, bobPassword, "team/other")
	}
	g.start(t)
	return g
}

// The callers of imagecache, with logins of their own.
const (
	ann         = "ann"
	annPassword = "what-only-ann-knows"
	bob         = "bob"
	bobPassword = "what-only-bob-knows"
)

// start starts the registry, for the first time or again.
func (g *guarded) start(t *testing.T) {
	t.Helper()
	auth := g.htpasswd(t)
	if g.tokens != nil {
		auth = g.tokens.settings(t, filepath.Join(g.dir, "token.pem"))
	}
	config := fmt.Sprintf(`
version: 0.1
log: {level: info, formatter: json, accesslog: {disabled: false}}
storage: {filesystem: {rootdirectory: %q}, maintenance: {uploadpurging: {enabled: false}}}
http: {addr: %q, secret: e2e, relativeurls: true}
auth: %s
`, g.storage, g.addr, auth)
	path := filepath.Join(g.dir, "config.yml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(g.kind.program(), "serve", path)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none") // version 3 would send its traces to somewhere
	g.proc = start(t, strings.ReplaceAll(g.kind.name, " ", "-"), cmd)
	eventually(t, g.kind.name+" answers", func() error {
		resp, err := http.Get("http://" + g.addr + "/v2/")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
}

func (g *guarded) htpasswd(t *testing.T) string {
	t.Helper()
	path := filepath.Join(g.dir, "htpasswd")
	var lines strings.Builder
	for user, password := range g.users {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&lines, "%s:%s\n", user, hash)
	}
	if err := os.WriteFile(path, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("{htpasswd: {realm: e2e, path: %q}}", path)
}

// lock locks the account that imagecache has. A registry with htpasswd is started again for that.
func (g *guarded) lock(t *testing.T, user string) {
	t.Helper()
	if g.tokens != nil {
		g.tokens.lock(user)
		return
	}
	g.proc.stop()
	delete(g.users, user)
	g.start(t)
}

// answered counts the requests of a method for manifests that were answered well, as the registry's access log has it.
func (g *guarded) answered(t *testing.T, method string) (n int) {
	t.Helper()
	file, err := os.Open(g.proc.log)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text() // in Apache's form: … "HEAD /v2/team/app/manifests/v1 HTTP/1.1" 200 …
		if strings.Contains(line, `"`+method+" /v2/") && strings.Contains(line, "/manifests/") && strings.Contains(line, `" 200 `) {
			n++
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

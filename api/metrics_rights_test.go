package api

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/imagecache/imagecache/api/access"
)

// usersFile is an htpasswd file of users whose passwords are as tests have them.
func usersFile(t *testing.T, users ...string) string {
	t.Helper()
	content := ""
	for _, user := range users {
		hash, err := bcrypt.GenerateFromPassword([]byte(user+"'s"), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		content += user + ":" + string(hash) + "\n"
	}
	file := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestWhoSeesTheMetrics: everybody without rules; with rules whom one lets, on
// the mirror as over the network, and everybody on the socket. Whether we are
// alive everybody may ask.
func TestWhoSeesTheMetrics(t *testing.T) {
	anonymous := access.Rule{Who: []string{"anonymous"}, May: []access.Verb{access.Metrics}}
	rules := access.Rules{
		{Who: []string{"*"}, May: []access.Verb{access.Pull}, Repositories: []string{"**"}},
		{Who: []string{"user:prom"}, May: []access.Verb{access.Metrics}},
		{Who: []string{"user:root"}, May: []access.Verb{access.Admin}},
	}
	for name, c := range map[string]struct {
		rules access.Rules
		want  map[string]int // by user
	}{
		"no rules":            {nil, map[string]int{"": 200, "ann": 200}},
		"rules":               {rules, map[string]int{"": 401, "ann": 403, "prom": 200, "root": 200, "wrong": 401}},
		"a rule for everyone": {append(access.Rules{anonymous}, rules...), map[string]int{"": 200, "ann": 200}},
		"all administrate":    {access.Rules{{Who: []string{"*"}, May: []access.Verb{access.Admin}}}, map[string]int{"": 401, "ann": 200}},
	} {
		t.Run(name, func(t *testing.T) {
			gate, err := access.New(access.Options{HtpasswdFile: usersFile(t, "ann", "prom", "root"), Rules: c.rules})
			if err != nil {
				t.Fatal(err)
			}
			server := New(Options{Registry: newHome(t).registry, Gate: gate})
			for where, url := range map[string]string{"mirror": listen(t, server.Mirror()), "network": listen(t, server.RemoteAdmin()), "socket": listen(t, server.Admin())} {
				for user, want := range c.want {
					if where == "socket" {
						want = 200
					}
					for _, method := range []string{"GET", "HEAD"} {
						answer, body := sendTo(t, method, url+"/metrics", "", as(user)...)
						if answer.StatusCode != want || strings.Contains(body, "imagecache_") != (want == 200 && method == "GET") {
							t.Errorf("%s of the %s as %q: %d, want %d", method, where, user, answer.StatusCode, want)
						}
						if want == 401 {
							wantHeader(t, answer, "WWW-Authenticate", `Basic realm="imagecache"`) // as Prometheus and curl have it
						}
					}
				}
				for _, path := range []string{"/healthz", "/readyz"} {
					if answer, _ := get(t, "GET", url+path); answer.StatusCode != 200 {
						t.Errorf("%s of the %s: %d", path, where, answer.StatusCode)
					}
				}
			}
		})
	}
}

package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	"golang.org/x/crypto/bcrypt"

	"github.com/imagecache/imagecache/api/access"
	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry"
	"github.com/imagecache/imagecache/registry/registrytest"
)

// guarded is a house whose callers sign in, in front of an upstream that is
// open to us alone.
type guarded struct {
	home
	upstream *registrytest.Registry
	private  registrytest.Image
	gate     *access.Gate
}

func newGuarded(t *testing.T, rules access.Rules) *guarded {
	t.Helper()
	g := &guarded{home: home{t: t, folder: t.TempDir()}, upstream: registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBasic})}
	g.private = g.upstream.AddImage("team/app", "v1", []byte("a private layer"))
	g.upstream.AddUser("robot", "ours", "team/app")
	password := filepath.Join(g.folder, "password")
	users := ""
	for _, user := range []string{"ann", "bob", "root"} {
		hash, err := bcrypt.GenerateFromPassword([]byte(user+"'s"), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		users += user + ":" + string(hash) + "\n"
	}
	file := filepath.Join(g.folder, "htpasswd")
	for path, content := range map[string]string{password: "ours", file: users} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	gate, err := access.New(access.Options{HtpasswdFile: file, Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	g.gate = gate
	if g.store, err = layerstore.Open(layerstore.Options{Root: filepath.Join(g.folder, "root"), Describe: registry.Describe}); err != nil {
		t.Fatal(err)
	}
	g.registry, err = registry.New(registry.Options{Store: g.store, Path: filepath.Join(g.folder, "registry.db"), Ruled: gate.Ruled(),
		Upstreams: []registry.UpstreamOptions{{Name: "up.example", URL: g.upstream.URL(), Username: "robot", PasswordFile: password, Access: registry.AccessProven}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.stop)
	g.url = listen(t, New(Options{Registry: g.registry, Gate: gate}).Mirror())
	return g
}

// as is the header that a user sends.
func as(user string) []string {
	if user == "" {
		return nil
	}
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(user, user+"'s")
	return []string{"Authorization", r.Header.Get("Authorization")}
}

var someRules = access.Rules{
	{Who: []string{"anonymous"}, May: []access.Verb{access.Pull}, Repositories: []string{"local/free/*"}},
	{Who: []string{"user:ann"}, May: []access.Verb{access.Pull, access.Push}, Repositories: []string{"local/**"}},
	{Who: []string{"user:bob"}, May: []access.Verb{access.Pull}, Repositories: []string{"up.example/team/*"}},
	{Who: []string{"user:root"}, May: []access.Verb{access.Pull, access.Push, access.Delete}, Repositories: []string{"**"}},
}

// TestWhoMayWhat asks everything of everybody everywhere: each cell of the
// matrix is a request, and only those that a rule names are let through.
func TestWhoMayWhat(t *testing.T) {
	g := newGuarded(t, someRules)
	root := as("root")
	blob := "a blob"
	d := digestOf(blob)
	places := []string{"local/free/app", "local/team/app", "up.example/team/app", "docker.io/library/none"}
	for _, place := range places[:2] {
		g.want(201, "POST", place+"/blobs/uploads/?digest="+d, blob, root...)
		content := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"x/y","digest":"` + d + `","size":6},"layers":[]}`
		g.want(201, "PUT", place+"/manifests/v1", content, append([]string{"Content-Type", "application/vnd.oci.image.manifest.v1+json"}, root...)...)
	}
	layer := g.private.Layers[0].Digest.String()
	may := map[string]bool{}
	for _, cell := range []string{
		" pull local/free/app",
		"ann pull local/free/app", "ann push local/free/app", "ann pull local/team/app", "ann push local/team/app",
		"bob pull up.example/team/app", "bob pull local/free/app", // as anonymous may
	} {
		may[cell] = true
	}
	for _, place := range places {
		for _, verb := range []string{"pull", "push", "delete"} {
			may["root "+verb+" "+place] = true
		}
	}
	for _, user := range []string{"", "ann", "bob", "root"} {
		for _, place := range places[:3] {
			of := d
			if place == places[2] {
				of = layer
			}
			for verb, requests := range map[string][]string{
				"pull":   {"GET manifests/v1", "HEAD manifests/v1", "GET blobs/" + of, "HEAD blobs/" + of, "GET tags/list", "GET referrers/" + of},
				"push":   {"POST blobs/uploads/", "POST blobs/uploads/?mount=" + of + "&from=" + place, "PUT manifests/v2", "PATCH blobs/uploads/x", "PUT blobs/uploads/x?digest=" + of, "GET blobs/uploads/x", "DELETE blobs/uploads/x"},
				"delete": {"DELETE manifests/none", "DELETE blobs/" + digestOf("none")},
			} {
				for _, request := range requests {
					method, path, _ := strings.Cut(request, " ")
					res, body := g.do(method, place+"/"+path, "", as(user)...)
					refused := res.StatusCode == 401 || res.StatusCode == 403
					if allowed := may[user+" "+verb+" "+place]; refused == allowed {
						t.Errorf("%q %s %s: %d %s, allowed by the rules: %v", user, request, place, res.StatusCode, body, allowed)
					}
				}
			}
		}
	}
}

// TestNoWayAround tries what could make one repository look like another, or a
// caller like somebody else.
func TestNoWayAround(t *testing.T) {
	g := newGuarded(t, someRules)
	ann := as("ann")
	d := digestOf("secret")
	g.want(201, "POST", "local/team/app/blobs/uploads/?digest="+d, "secret", ann...)
	for _, path := range []string{
		"local/free/app/blobs/" + d,         // by knowing the digest
		"local/free/%2e%2e/team/app/blobs/", // and what is refused before
		"local/free/..%2fteam/app/blobs/",
		"local//free/../team/app/blobs/",
		"LOCAL/team/app/blobs/",
		"local/Team/app/blobs/",
		"free/app/blobs/" + d + "?ns=local&ns=up.example",
		"local/free/x/../../team/app/blobs/",
	} {
		if !strings.Contains(path, d) {
			path += d
		}
		if res, body := g.do("GET", path, ""); res.StatusCode < 400 || strings.Contains(body, "secret") {
			t.Errorf("%s: %d %q", path, res.StatusCode, body)
		}
	}
	for _, header := range [][]string{
		{"X-Forwarded-For", "127.0.0.1"}, {"X-Forwarded-User", "ann"}, {"X-Remote-User", "user:ann"}, {"X-Real-Ip", "127.0.0.1"},
		{"X-SSL-Client-CN", "node-1"}, {"Forwarded", "for=127.0.0.1"}, {"X-Original-URL", "/v2/local/free/app/blobs/" + d},
		{"Authorization", "Bearer e30.e30."}, {"Authorization", "Basic " + "YW5uOndyb25n"},
	} {
		if res, body := g.do("GET", "local/team/app/blobs/"+d, "", header...); res.StatusCode != 401 {
			t.Errorf("%v: %d %q", header, res.StatusCode, body)
		}
	}
	// A mount takes the right to see the source.
	g.want(202, "POST", "local/free/b/blobs/uploads/?mount="+d+"&from=up.example/team/app", "", ann...)
	if _, body := g.want(200, "GET", "_catalog", "", g.asNobody()...); body != `{"repositories":[]}`+"\n" {
		t.Errorf("anonymous sees the catalog %s", body)
	}
	if _, body := g.want(200, "GET", "_catalog", "", ann...); body != `{"repositories":["local/team/app"]}`+"\n" {
		t.Errorf("ann sees the catalog %s", body)
	}
}

// TestARuleIsARight: who a rule names sees what upstream gave to us alone;
// who none names does not, in whatever state it is.
func TestARuleIsARight(t *testing.T) {
	g := newGuarded(t, someRules)
	layer := "up.example/team/app/blobs/" + g.private.Layers[0].Digest.String()
	for _, when := range []string{"cold", "warm", "upstream is dead"} {
		for _, path := range []string{"up.example/team/app/manifests/v1", layer} {
			g.want(401, "GET", path, "")
			g.want(403, "GET", path, "", as("ann")...)
			g.want(200, "GET", path, "", as("bob")...)
		}
		if when == "warm" {
			g.upstream.Stop()
		}
	}
}

// TestClientsSignIn goes docker's way: the question, the challenge, the token.
func TestClientsSignIn(t *testing.T) {
	g := newGuarded(t, someRules)
	host := strings.TrimPrefix(g.url, "http://")
	res, body := g.do("GET", "/v2/", "")
	wantError(t, res, body, 401, "UNAUTHORIZED")
	wantHeader(t, res, "WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="imagecache"`, host))
	res, _ = g.do("GET", "local/team/app/manifests/v1", "")
	wantHeader(t, res, "WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="imagecache",scope="repository:local/team/app:pull"`, host))
	answer, token := get(t, "GET", g.url+"/token?service=imagecache&scope=repository:local/team/app:pull,push", as("ann")...)
	var given access.Token
	if err := json.Unmarshal([]byte(token), &given); answer.StatusCode != 200 || err != nil || given.Token == "" {
		t.Fatalf("%d %s", answer.StatusCode, token)
	}
	wantHeader(t, answer, "Cache-Control", "no-store")
	g.want(200, "GET", "/v2/", "", "Authorization", "Bearer "+given.Token)
	answer, body = get(t, "GET", g.url+"/token", "Authorization", "Basic YW5uOndyb25n")
	wantError(t, answer, body, 401, "UNAUTHORIZED")
	wantHeader(t, answer, "WWW-Authenticate", `Basic realm="imagecache"`)

	image, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	for user, fails := range map[string]bool{"ann": false, "bob": true, "": true} {
		ref, err := name.ParseReference(host + "/local/team/pushed:v1")
		if err != nil {
			t.Fatal(err)
		}
		var who authn.Authenticator = authn.Anonymous
		if user != "" {
			who = &authn.Basic{Username: user, Password: user + "'s"}
		}
		if err := remote.Write(ref, image, remote.WithAuth(who), remote.WithContext(t.Context())); (err != nil) != fails {
			t.Errorf("%q pushes: %v", user, err)
		}
		if _, err := remote.Get(ref, remote.WithAuth(who), remote.WithContext(t.Context())); (err != nil) != fails {
			t.Errorf("%q pulls: %v", user, err)
		}
	}
	// Who signs in nowhere gets a token for nobody, and what is free.
	free, err := name.ParseReference(host + "/local/free/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(free, image, remote.WithAuth(&authn.Basic{Username: "ann", Password: "ann's"}), remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	if _, err := remote.Get(free, remote.WithContext(t.Context())); err != nil {
		t.Errorf("nobody pulls what is free: %v", err)
	}
}

func digestOf(content string) string { return digest.FromString(content).String() }

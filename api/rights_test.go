package api

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry"
	"github.com/imagecache/imagecache/registry/registrytest"
)

// door is a mirror in front of an upstream that is not open, with an image in
// app that alice (the operator) and ann may see.
type door struct {
	*house
	folder string
	log    syncBuffer
	image  registrytest.Image
	layer  []byte
	stop   func()
}

// What the three kinds of callers send.
var (
	right   = []string{"Authorization", basicAuth("ann", "ann:s own s3cret/+")}
	wrong   = []string{"Authorization", basicAuth("bob", "b0b's own secret")}
	nothing = []string(nil)
)

func basicAuth(username, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(username+":"+password))
}

func newDoor(t *testing.T, auth registrytest.Auth) *door {
	t.Helper()
	up := registrytest.New(t, registrytest.Options{Auth: auth, Username: "alice", Password: "operator's pa55word"})
	up.AddUser("ann", "ann:s own s3cret/+", "app")
	up.AddUser("bob", "b0b's own secret", "other")
	d := &door{house: &house{upstream: up}, folder: t.TempDir(), layer: noise(1 << 20)}
	d.image = up.AddImage("app", "v1", d.layer)
	if err := os.WriteFile(filepath.Join(d.folder, "password"), []byte("operator's pa55word"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.start(t)
	return d
}

// start opens the mirror and its administration, at new addresses.
func (d *door) start(t *testing.T) {
	t.Helper()
	log := slog.New(slog.NewJSONHandler(&d.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	store, err := layerstore.Open(layerstore.Options{Root: filepath.Join(d.folder, "root"), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	reg, err := registry.New(registry.Options{Store: store, Path: filepath.Join(d.folder, "registry.db"), Log: log,
		Upstreams: []registry.UpstreamOptions{{Name: "registry.test", URL: d.upstream.URL(), Access: registry.AccessProven,
			Username: "alice", PasswordFile: filepath.Join(d.folder, "password")}}})
	if err != nil {
		t.Fatal(err)
	}
	server := New(Options{Registry: reg, Log: log, AccessLog: log})
	d.mirror, d.admin = listen(t, server.Mirror()), listen(t, server.Admin())
	d.stop = sync.OnceFunc(func() {
		reg.Close()
		store.Close()
	})
	t.Cleanup(d.stop)
}

func (d *door) requests() map[string][]string {
	app, blob := "/v2/app/", "blobs/"+d.image.Layers[0].Digest.String()
	const ns = "?ns=registry.test"
	return map[string][]string{
		"tag":          {"GET", d.mirror + app + "manifests/v1" + ns},
		"tag, head":    {"HEAD", d.mirror + app + "manifests/v1" + ns},
		"digest":       {"GET", d.mirror + app + "manifests/" + d.image.Digest.String() + ns},
		"digest, head": {"HEAD", d.mirror + app + "manifests/" + d.image.Digest.String() + ns},
		"by path":      {"GET", d.mirror + "/v2/registry.test/app/manifests/v1"},
		"blob":         {"GET", d.mirror + app + blob + ns},
		"blob, head":   {"HEAD", d.mirror + app + blob + ns},
		"blob, range":  {"GET", d.mirror + app + blob + ns, "Range", "bytes=1000-1999"},
		"config":       {"GET", d.mirror + app + "blobs/" + d.image.Config.Digest.String() + ns},
		"tags":         {"GET", d.mirror + app + "tags/list" + ns},
	}
}

// served checks that who sends this header gets everything.
func (d *door) served(t *testing.T, when string, header []string) {
	t.Helper()
	for name, r := range d.requests() {
		answer, body := get(t, r[0], r[1], append(r[2:len(r):len(r)], header...)...)
		if answer.StatusCode != 200 && answer.StatusCode != 206 {
			t.Errorf("%s, %s: %d %s", when, name, answer.StatusCode, body)
		}
	}
}

// shut checks that those without a right get nothing, in the same words
// whether it is here or not. Status 0 is any refusal, with a challenge where
// it is a 401.
func (d *door) shut(t *testing.T, when string) {
	t.Helper()
	absent := digest.FromString("absent").Encoded()
	for who, header := range map[string][]string{"bob": wrong, "nobody": nothing} {
		for name, r := range d.requests() {
			header := append(r[2:len(r):len(r)], header...)
			answer, body := get(t, r[0], r[1], header...)
			switch answer.StatusCode {
			case 401:
				wantHeader(t, answer, "Www-Authenticate", `Basic realm="imagecache: registry.test"`)
			case 403, 502, 504:
			default:
				t.Errorf("%s, %s, %s: %d %q", when, who, name, answer.StatusCode, body)
			}
			if answer.Header.Get("Docker-Content-Digest") != "" || strings.Contains(body, "layers") {
				t.Errorf("%s, %s, %s: it tells of the image", when, who, name)
			}
			for _, d := range []string{d.image.Digest.Encoded(), d.image.Layers[0].Digest.Encoded()} {
				if !strings.Contains(r[1], d) {
					continue
				}
				same, other := get(t, r[0], strings.Replace(r[1], d, absent, 1), header...)
				if same.StatusCode != answer.StatusCode || strings.ReplaceAll(other, absent, d) != body {
					t.Errorf("%s, %s, %s: %d %s, and for what is not there %d %s", when, who, name, answer.StatusCode, body, same.StatusCode, other)
				}
			}
		}
	}
}

func TestRightsOverTheWire(t *testing.T) {
	for _, auth := range []registrytest.Auth{registrytest.AuthBasic, registrytest.AuthBearer} {
		t.Run(string(auth), func(t *testing.T) {
			d := newDoor(t, auth)
			d.shut(t, "cold")
			d.served(t, "cold", right)
			d.shut(t, "warm")
			d.stop()
			d.start(t)
			d.shut(t, "after a restart")
			d.served(t, "after a restart", right)
			post(t, d.admin+"/api/v1/pins", `{"reference":"registry.test/app:v1","platforms":["all"]}`)
			d.served(t, "pinned", right)
			d.shut(t, "pinned")
			d.upstream.Stop()
			d.served(t, "upstream is dead", right)
			d.shut(t, "upstream is dead")
			d.stop()
			d.start(t)
			d.served(t, "upstream is dead, after a restart", right)
			d.shut(t, "upstream is dead, after a restart")
		})
	}
}

func TestNobodyFollowsATransferWithoutARight(t *testing.T) {
	d := newDoor(t, registrytest.AuthBearer)
	d.upstream.Add(registrytest.Rule{Method: "GET", Path: "/blobs/", Lie: registrytest.Stall(10_000)})
	r := d.requests()["blob"]
	done := make(chan error, 1)
	go func() {
		_, body, err := call(t, "GET", r[1], right...)
		if err == nil && body != string(d.layer) {
			err = fmt.Errorf("%d bytes", len(body))
		}
		done <- err
	}()
	d.upstream.Wait(t, "GET", "/blobs/", 1)
	d.shut(t, "in flight")
	d.upstream.Heal()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestBaseTellsOfTheChallengeWhereAnUpstreamIsNotOpen(t *testing.T) {
	d := newDoor(t, registrytest.AuthBasic)
	for _, header := range [][]string{right, wrong, nothing} {
		answer, _ := get(t, "GET", d.mirror+"/v2/", header...)
		if answer.StatusCode != 200 {
			t.Errorf("%d: clients without a credential go no further", answer.StatusCode)
		}
		wantHeader(t, answer, "Www-Authenticate", `Basic realm="imagecache"`)
	}
}

// syncBuffer is a buffer that a log may write to from anywhere.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestSecretsAreNowhere(t *testing.T) {
	for _, auth := range []registrytest.Auth{registrytest.AuthBasic, registrytest.AuthBearer} {
		t.Run(string(auth), func(t *testing.T) { lookEverywhere(t, newDoor(t, auth)) })
	}
}

// lookEverywhere makes everything happen that could leave a secret behind, and
// looks for it.
func lookEverywhere(t *testing.T, d *door) {
	const token, inURL = "a-bearer-token-of-somebody", "pa55word-in-a-url"
	bearer := []string{"Authorization", "Bearer " + token}
	// An upstream that repeats what it was shown, and one that fails.
	d.upstream.Add(registrytest.Rule{Path: "/v2/app/", Lie: registrytest.Echo()})
	var told strings.Builder
	ask := func(method, url string, header ...string) {
		answer, body, err := call(t, method, url, header...)
		fmt.Fprintln(&told, answer, body, err)
	}
	everything := func() {
		for _, r := range d.requests() {
			for _, header := range [][]string{right, wrong, bearer, nothing} {
				ask(r[0], r[1], append(r[2:len(r):len(r)], header...)...)
			}
		}
		withUser := strings.Replace(d.mirror, "http://", "http://ann:"+inURL+"@", 1)
		ask("GET", withUser+"/v2/app/manifests/v1?ns=registry.test")
		for _, path := range []string{"app/manifests/v1?ns=ann:" + inURL + "@registry.test", "ann:" + inURL + "@registry.test/app/manifests/v1"} {
			answer, body := get(t, "GET", d.mirror+"/v2/"+path)
			if answer.StatusCode < 400 {
				t.Errorf("%s: %d %s", path, answer.StatusCode, body) // its own words may come back to who sent them
			}
		}
		_, _ = post(t, d.admin+"/api/v1/pull", `{"reference":"registry.test/app:v1"}`)
		_, body := post(t, d.admin+"/api/v1/pins", `{"reference":"registry.test/app:v1"}`)
		told.WriteString(body)
		for _, path := range []string{"status", "df", "images", "images/inspect?ref=registry.test/app:v1", "pins?drift=true"} {
			ask("GET", d.admin+"/api/v1/"+path)
		}
		ask("GET", d.admin+"/metrics")
	}
	everything()
	d.upstream.Heal()
	everything()
	d.upstream.Stop()
	everything()
	d.stop()

	secrets := []string{token, inURL, "operator's pa55word", "ann:s own s3cret/+", "b0b's own secret"}
	for _, header := range [][]string{right, wrong, {"", basicAuth("alice", "operator's pa55word")}, {"", basicAuth("ann", inURL)}} {
		secrets = append(secrets, strings.TrimPrefix(header[1], "Basic "))
	}
	secrets = append(secrets, d.upstream.Tokens()...)
	found := map[string]string{"log": d.log.String(), "answers": told.String()}
	for _, name := range []string{"registry.db", "root/layerstore.db", "root/index.json"} {
		content, err := os.ReadFile(filepath.Join(d.folder, name))
		if err != nil {
			t.Fatal(err)
		}
		found[name] = string(content)
	}
	arguments, err := os.ReadFile("/proc/self/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	found["arguments"] = string(arguments)
	for place, text := range found {
		for _, secret := range secrets {
			if at := strings.Index(text, secret); at >= 0 {
				t.Errorf("%s holds %q: …%s…", place, secret, text[max(0, at-80):min(len(text), at+len(secret)+80)])
			}
		}
	}
	if !strings.Contains(found["log"], `"msg":"request"`) || !strings.Contains(found["registry.db"], "registry.test/app") {
		t.Error("the places that were looked at hold nothing at all")
	}
}

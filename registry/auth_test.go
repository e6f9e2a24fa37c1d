package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/imagecache/imagecache/registry/registrytest"
)

func TestBasic(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBasic})
	r.AddImage("a/b", "v1")
	u := upstreamOf(t, r, withPassword(t, "open sesame"))
	for range 2 {
		got, err := u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
		noErr(t, err)
		if got.Anonymous {
			t.Error("got with a password, said to be anonymous")
		}
	}
	if n := r.Count("GET", "/manifests/"); n != 2 {
		t.Errorf("%d requests for two manifests", n)
	}
	if !u.status().Authenticated {
		t.Error("not authenticated")
	}
	_, err := u.anonymous().manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
	wantCode(t, err, CodeUnauthorized)
}

func TestWrongPasswordIsShownOnceAndIsNotFourOhFour(t *testing.T) {
	for _, auth := range []registrytest.Auth{registrytest.AuthBasic, registrytest.AuthBearer} {
		var log bytes.Buffer
		r := registrytest.New(t, registrytest.Options{Auth: auth})
		r.AddImage("a/b", "v1")
		u := upstreamIn(t, upstreamEnv{log: logTo(&log)}, r, withPassword(t, "hunter2"))
		_, err := u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
		wantCode(t, err, CodeUnauthorized)
		mustNotContain(t, err.Error()+log.String()+fmt.Sprint(u.status()), "hunter2")
		shown := 0
		for _, request := range r.Requests("", "") {
			if request.Auth == "basic" {
				shown++
			}
		}
		if shown != 1 {
			t.Errorf("%s: the wrong password was shown %d times", auth, shown)
		}
	}
}

func TestBearerIsOneTokenForAPull(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBearer})
	image := r.AddImage("a/b", "v1", registrytest.Bytes(1, 100), registrytest.Bytes(2, 100))
	u := upstreamOf(t, r, withPassword(t, "open sesame"))
	got, err := u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
	noErr(t, err)
	if got.Anonymous {
		t.Error("got with a password, said to be anonymous")
	}
	for _, layer := range image.Layers {
		body, err := u.blob("a/b", layer.Digest).Open(t.Context(), 0, -1)
		noErr(t, err)
		readAll(t, body)
	}
	if n := r.Count("", "^/token"); n != 1 {
		t.Errorf("%d tokens", n)
	}
	asked := r.Requests("", "^/token")[0]
	if !strings.Contains(asked.Query, "scope=repository%3Aa%2Fb%3Apull&") || asked.Auth != "basic" || asked.UserAgent != "imagecache" {
		t.Errorf("asked with %q, %s, %s", asked.Query, asked.Auth, asked.UserAgent)
	}
	for _, request := range r.Requests("", "^/v2/a") {
		if request.Auth != "bearer" {
			t.Errorf("%s %s came with %s", request.Method, request.Path, request.Auth)
		}
	}
}

func TestAnonymousTokenOpensWhatIsPublicOnly(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBearer})
	r.AddImage("open/x", "v1")
	r.AddImage("shut/x", "v1")
	r.Public("open/x")
	u := upstreamOf(t, r, withPassword(t, "open sesame"))
	got, err := u.anonymous().manifest(t.Context(), "open/x", tagged(r, "open/x", "v1"))
	noErr(t, err)
	if !got.Anonymous {
		t.Error("got without a password, said not to be anonymous")
	}
	_, err = u.manifest(t.Context(), "shut/x", tagged(r, "shut/x", "v1"))
	noErr(t, err)
	r.ForgetRequests()
	_, err = u.anonymous().manifest(t.Context(), "shut/x", tagged(r, "shut/x", "v1"))
	wantCode(t, err, CodeUnauthorized)
	if tokens, asked := r.Count("", "^/token"), r.Count("", "/manifests/"); tokens != 1 || asked != 1 {
		t.Errorf("%d tokens and %d questions: a second token, got at once, opens no more than the first", tokens, asked)
	}
	if u.anonymous().anonymous() != u.anonymous() {
		t.Error("the anonymous view of an anonymous upstream is another")
	}
}

func TestConcurrentAskersShareOneTokenAndOnePing(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBearer})
	image := r.AddImage("a/b", "v1", []byte("layer"))
	u := upstreamOf(t, r, withPassword(t, "open sesame"))
	r.Add(registrytest.Rule{Path: "^/token", Lie: registrytest.Hang()})
	first, leave := context.WithCancel(t.Context())
	firstDone := make(chan error, 1)
	go func() {
		_, err := u.manifest(first, "a/b", tagged(r, "a/b", "v1"))
		firstDone <- err
	}()
	r.Wait(t, "", "^/token", 1)
	var all sync.WaitGroup
	errs := make(chan error, 50)
	for range 50 {
		all.Go(func() {
			body, err := u.blob("a/b", image.Layers[0].Digest).Open(t.Context(), 0, -1)
			if err == nil {
				_, err = io.Copy(io.Discard, body)
				body.Close()
			}
			errs <- err
		})
	}
	leave() // the first asker's departure does not end the flight
	if err := <-firstDone; err == nil {
		t.Error("who left got an answer")
	}
	r.Heal()
	all.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	if tokens, pings := r.Count("", "^/token"), r.Count("", "^/v2/$"); tokens != 1 || pings != 1 {
		t.Errorf("%d tokens, %d pings", tokens, pings)
	}
}

func TestTokenIsRenewedBeforeItsEnd(t *testing.T) {
	c := &handClock{time.Now()}
	r := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBearer, TokenLife: 100 * time.Second})
	r.AddImage("a/b", "v1")
	u := upstreamIn(t, upstreamEnv{now: c.now}, r, withPassword(t, "open sesame"))
	for i, step := range []time.Duration{0, 89 * time.Second, 2 * time.Second} {
		c.at = c.at.Add(step)
		_, err := u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
		noErr(t, err)
		if n, want := r.Count("", "^/token"), []int{1, 1, 2}[i]; n != want {
			t.Errorf("step %d: %d tokens, want %d", i, n, want)
		}
	}
}

func TestTokenThatEndsMidwayIsReplacedOnce(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBearer})
	image := r.AddImage("a/b", "v1", []byte("layer"))
	u := upstreamOf(t, r, withPassword(t, "open sesame"))
	_, err := u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
	noErr(t, err)
	r.ExpireTokens()
	body, err := u.blob("a/b", image.Layers[0].Digest).Open(t.Context(), 0, -1)
	noErr(t, err)
	readAll(t, body)
	if n := r.Count("", "^/token"); n != 2 {
		t.Errorf("%d tokens", n)
	}
	r.Add(registrytest.Rule{Path: "/blobs/", Lie: registrytest.Answer(401, "")})
	r.ForgetRequests()
	_, err = u.blob("a/b", image.Layers[0].Digest).Open(t.Context(), 0, -1)
	wantCode(t, err, CodeUnauthorized)
	if blobs, tokens := r.Count("", "/blobs/"), r.Count("", "^/token"); blobs != 2 || tokens != 1 {
		t.Errorf("%d requests and %d tokens before giving up", blobs, tokens)
	}
}

func TestTokenLife(t *testing.T) {
	for seconds, want := range map[int]time.Duration{
		0: 50 * time.Second, -1: 50 * time.Second, 4: 3 * time.Second, 300: 290 * time.Second, 1 << 40: time.Hour - 10*time.Second,
	} {
		if got := tokenLife(seconds); got != want {
			t.Errorf("%d: %v, want %v", seconds, got, want)
		}
	}
}

func TestChallengeOfTheRequestWhenPingHasNone(t *testing.T) {
	for _, auth := range []registrytest.Auth{registrytest.AuthBasic, registrytest.AuthBearer} {
		r := registrytest.New(t, registrytest.Options{Auth: auth, QuietPing: true})
		r.AddImage("a/b", "v1")
		u := upstreamOf(t, r, withPassword(t, "open sesame"))
		for range 2 {
			_, err := u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
			noErr(t, err)
		}
		if n := r.Count("", "/manifests/"); n != 3 {
			t.Errorf("%s: %d requests, want one refused and two", auth, n)
		}
	}
}

func TestOddPingsAreNoObstacle(t *testing.T) {
	for name, lie := range map[string]registrytest.Lie{
		"404": registrytest.Answer(404, ""), "500": registrytest.Answer(500, ""), "redirect": registrytest.RedirectTo("http://127.0.0.1:1/v2/"),
	} {
		r := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBearer})
		r.AddImage("a/b", "v1")
		r.Add(registrytest.Rule{Path: "^/v2/$", Lie: lie})
		if _, err := upstreamOf(t, r, withPassword(t, "open sesame")).manifest(t.Context(), "a/b", tagged(r, "a/b", "v1")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTokenServiceThatLimitsOrFails(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBearer})
	r.AddImage("a/b", "v1")
	for _, c := range []struct {
		lie   registrytest.Lie
		want  Code
		after time.Duration
	}{
		{registrytest.Answer(429, "33"), CodeTooMany, 33 * time.Second},
		{registrytest.Answer(500, ""), CodeUnavailable, 0},
		{registrytest.Answer(404, ""), CodeUnavailable, 0},
		{registrytest.Answer(403, ""), CodeDenied, 0},
		{registrytest.Substitute([]byte(`{"refresh_token":"secret-x"}`)), CodeUnavailable, 0},
		{registrytest.RedirectTo(r.URL() + "/elsewhere"), CodeUnavailable, 0},
		{registrytest.Cut(3), CodeUnavailable, 0},
	} {
		r.Heal()
		r.Add(registrytest.Rule{Path: "^/token", Lie: c.lie})
		u := upstreamOf(t, r, withPassword(t, "open sesame"))
		_, err := u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
		if e := wantCode(t, err, c.want); e.RetryAfter != c.after {
			t.Errorf("retry after %v, want %v", e.RetryAfter, c.after)
		}
		mustNotContain(t, err.Error(), "secret-x", "scope=")
	}
	if n := r.Count("", "/elsewhere"); n != 0 {
		t.Error("a redirect of the token service was followed")
	}
}

// trap is a host that must get no credential. It gives a token to everybody.
type trap struct {
	*httptest.Server
	mu    sync.Mutex // guards heard
	heard []string   // all that came, as on the wire
}

func newTrap(t *testing.T, listen string, secure bool) *trap {
	t.Helper()
	l, err := net.Listen("tcp", listen)
	if err != nil {
		t.Skipf("cannot listen on %s: %v", listen, err)
	}
	tr := &trap{}
	tr.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var wire bytes.Buffer
		_ = req.Write(&wire)
		tr.mu.Lock()
		tr.heard = append(tr.heard, wire.String())
		tr.mu.Unlock()
		fmt.Fprint(w, `{"token":"of the trap"}`)
	}))
	tr.Listener.Close()
	tr.Listener = l
	if secure {
		tr.StartTLS()
	} else {
		tr.Start()
	}
	t.Cleanup(tr.Close)
	return tr
}

func (tr *trap) requests() []string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return append([]string(nil), tr.heard...)
}

func TestHostileRealmAtAnAddressGetsNoRequest(t *testing.T) {
	hostile := newTrap(t, "127.0.0.2:0", false)
	r := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBearer, Realm: hostile.URL + "/token"})
	r.AddImage("a/b", "v1")
	u := upstreamOf(t, r, withPassword(t, "open sesame"))
	_, err := u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
	wantCode(t, err, CodeUnauthorized)
	if heard := hostile.requests(); len(heard) != 0 {
		t.Errorf("the foreign host heard %q", heard)
	}
}

func TestForeignRealmIsAskedWithoutTheCredential(t *testing.T) {
	hostile := newTrap(t, "127.0.0.1:0", true)
	r := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBearer, Realm: "https://auth.elsewhere.com/token"})
	r.AddImage("a/b", "v1")
	env := upstreamEnv{dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if strings.HasPrefix(address, "auth.elsewhere.com:") {
			address = hostile.Listener.Addr().String()
		}
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}}
	u := upstreamIn(t, env, r, withPassword(t, "open sesame"))
	u.network.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // the trap has no certificate for its name
	_, err := u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
	wantCode(t, err, CodeUnauthorized)
	heard := hostile.requests()
	if len(heard) == 0 {
		t.Fatal("the foreign host was not asked")
	}
	encoded := base64.StdEncoding.EncodeToString([]byte("alice:open sesame"))
	for _, wire := range heard {
		mustNotContain(t, wire, "Authorization", "alice", "sesame", encoded)
	}
}

func TestPasswordFileIsReadAgain(t *testing.T) {
	for _, auth := range []registrytest.Auth{registrytest.AuthBasic, registrytest.AuthBearer} {
		r := registrytest.New(t, registrytest.Options{Auth: auth})
		r.AddImage("a/b", "v1")
		path := filepath.Join(t.TempDir(), "password")
		writeFile(t, path, "open sesame")
		u := upstreamOf(t, r, func(o *UpstreamOptions) { o.Username, o.PasswordFile = "alice", path })
		ask := func() error {
			_, err := u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
			return err
		}
		noErr(t, ask())
		r.SetPassword("another")
		wantCode(t, ask(), CodeUnauthorized)
		writeFile(t, path+".new", "another\r\n")
		noErr(t, os.Rename(path+".new", path))
		noErr(t, ask())
		noErr(t, os.Remove(path))
		noErr(t, ask())
	}
}

func TestCredentialHelper(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBasic})
	r.AddImage("a/b", "v1")
	folder := t.TempDir()
	t.Setenv("PATH", folder+":"+os.Getenv("PATH"))
	helper := func(name, script string) func(*UpstreamOptions) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(folder, "docker-credential-"+name), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
			t.Fatal(err)
		}
		return func(o *UpstreamOptions) { o.CredentialHelper = name }
	}
	calls := filepath.Join(folder, "calls")
	u := upstreamOf(t, r, helper("good", fmt.Sprintf(
		`read server; echo "$1 $server" >> %s; printf '{"ServerURL":"%%s","Username":"alice","Secret":"open sesame"}' "$server"`, calls)))
	for range 3 {
		_, err := u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
		noErr(t, err)
	}
	if got, _ := os.ReadFile(calls); string(got) != "get "+r.Host()+"\n" {
		t.Errorf("the helper was called with %q", got)
	}
	for name, c := range map[string]struct{ script, want string }{
		"none":   {`echo "credentials not found in native keychain"; exit 1`, "wants a credential"},
		"broken": {`echo "token expired, log in again"; exit 1`, "log in again"},
		"leaky":  {`echo '{"Secret":"hunter2"}'; exit 1`, "failed"},
		"chatty": {`yes`, "failed"},
		"empty":  {`echo '{}'`, "printed no credential"},
	} {
		_, err := upstreamOf(t, r, helper(name, c.script)).manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
		if e := wantCode(t, err, CodeUnauthorized); !strings.Contains(e.Error(), c.want) {
			t.Errorf("%s: got %v, want one with %q", name, err, c.want)
		}
		mustNotContain(t, err.Error(), "hunter2")
	}
}

func TestDockerConfig(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBasic})
	r.AddImage("a/b", "v1")
	noDockerConfig(t)
	path := filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json")
	auth := base64.StdEncoding.EncodeToString([]byte("alice:open sesame"))
	writeFile(t, path, fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, r.Host(), auth))
	u := upstreamOf(t, r)
	_, err := u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
	noErr(t, err)
	if !u.status().Authenticated {
		t.Error("not authenticated")
	}

	var log bytes.Buffer
	writeFile(t, path, `{"auths": nonsense`)
	broken := upstreamIn(t, upstreamEnv{log: logTo(&log)}, r)
	_, err = broken.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
	wantCode(t, err, CodeUnauthorized)
	if !strings.Contains(log.String(), "docker's config cannot be used") {
		t.Errorf("the log is %q", log.String())
	}
}

func TestDockerConfigKeys(t *testing.T) {
	for _, c := range []struct{ name, url, want string }{
		{"docker.io", "https://registry-1.docker.io", "index.docker.io"},
		{"docker.io", "https://mirror.example.com", "mirror.example.com"},
		{"quay.io", "https://quay.io", "quay.io"},
		{"gitlab.com", "https://registry.gitlab.com", "registry.gitlab.com gitlab.com"},
		{"127.0.0.1:5000", "http://127.0.0.1:5001", "127.0.0.1:5001 127.0.0.1:5000"},
	} {
		base, err := parseBase(UpstreamOptions{Name: c.name, URL: c.url})
		noErr(t, err)
		if got := strings.Join(configKeys(c.name, base), " "); got != c.want {
			t.Errorf("%s at %s: %s, want %s", c.name, c.url, got, c.want)
		}
	}
}

func TestDockerHubIsLookedUpByItsOldName(t *testing.T) {
	noDockerConfig(t)
	auth := base64.StdEncoding.EncodeToString([]byte("alice:open sesame"))
	writeFile(t, filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), fmt.Sprintf(`{"auths":{"https://index.docker.io/v1/":{"auth":%q}}}`, auth))
	u, err := newUpstream(WellKnown()[0], upstreamEnv{})
	noErr(t, err)
	got, err := u.auth.keys.credential(t.Context(), false)
	noErr(t, err)
	if got.Username != "alice" || got.Password != "open sesame" {
		t.Errorf("got %q", got.Username)
	}
}

func TestTLSWithItsOwnCertificate(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBearer, TLS: true})
	image := r.AddImage("a/b", "v1", []byte("layer"))
	r.Add(registrytest.Rule{Path: "/v2/.*/blobs/", Lie: registrytest.Redirect()})
	u := upstreamOf(t, r, withPassword(t, "open sesame"))
	_, err := u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
	noErr(t, err)
	body, err := u.blob("a/b", image.Layers[0].Digest).Open(t.Context(), 0, -1)
	noErr(t, err)
	if got := readAll(t, body); string(got) != "layer" {
		t.Errorf("got %q", got)
	}
	stranger := upstreamOf(t, r, func(o *UpstreamOptions) { o.CAFile = "" })
	_, err = stranger.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
	wantCode(t, err, CodeUnavailable)
}

package registry

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/imagecache/imagecache/registry/registrytest"
)

func TestEachRepositoryIsAskedForWithItsAccount(t *testing.T) {
	for _, auth := range []registrytest.Auth{registrytest.AuthBasic, registrytest.AuthBearer} {
		r := registrytest.New(t, registrytest.Options{Auth: auth})
		for name, path := range map[string]string{"a": "team-a/app", "b": "team-b/deep/app", "c": "team-b/other", "d": "else/app"} {
			r.AddUser(name, name+" secret", path)
			r.AddImage(path, "v1")
		}
		file := func(content string) string {
			path := filepath.Join(t.TempDir(), "password")
			writeFile(t, path, content)
			return path
		}
		u := upstreamOf(t, r, func(o *UpstreamOptions) {
			o.Username, o.PasswordFile = "d", file("d secret")
			o.Accounts = []Account{
				{"team-b/**", Login{Username: "b", PasswordFile: file("b secret")}},
				{"team-a/*", Login{Username: "a", PasswordFile: file("a secret")}},
				{"team-b/other", Login{Username: "c", PasswordFile: file("c secret")}},
			}
		})
		for _, path := range []string{"team-a/app", "team-b/deep/app", "team-b/other", "else/app"} {
			if _, err := u.manifest(t.Context(), path, tagged(r, path, "v1")); err != nil {
				t.Errorf("%s: %s: %v", auth, path, err)
			}
		}
		r.AddImage("team-a/deep/app", "v1")
		if _, err := u.manifest(t.Context(), "team-a/deep/app", tagged(r, "team-a/deep/app", "v1")); err == nil {
			t.Error("team-a/* is taken for what is below")
		}
	}
}

func TestTheLongestPatternOfAccountsCountsAndOfTwoTheFirst(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	writeFile(t, file, "x")
	as := func(pattern, user string) Account { return Account{pattern, Login{Username: user, PasswordFile: file}} }
	noDockerConfig(t)
	u, err := newUpstream(UpstreamOptions{Name: "registry.test", Accounts: []Account{
		as("*/*", "all"), as("team/*", "first"), as("team/?", "second"), as("team/ap*", "longest"),
	}}, upstreamEnv{})
	noErr(t, err)
	t.Cleanup(u.close)
	for path, want := range map[string]string{"x/y": "all", "team/b": "first", "team/app": "longest", "one": ""} {
		got, err := u.auth.keys.credential(withWay(t.Context(), &way{repository: path}), false)
		if err != nil || got.Username != want {
			t.Errorf("%s: %q, %v, want %q", path, got.Username, err, want)
		}
	}
}

func TestAccountsThatCannotBe(t *testing.T) {
	for want, a := range map[string]Account{
		"no repositories":    {"", Login{Username: "a", PasswordFile: "x"}},
		"not a pattern":      {"a/**/b", Login{Username: "a", PasswordFile: "x"}},
		"no login":           {"a/*", Login{}},
		"need each other":    {"a/*", Login{ClientID: "a"}},
		"exclude each other": {"a/*", Login{ClientID: "a", ClientSecretFile: "x", TokenURL: "y", CredentialHelper: "z"}},
	} {
		if err := a.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", a, err)
		}
	}
}

// grantService is an OAuth2 token service that knows one client.
type grantService struct {
	*httptest.Server
	issue  func() (token string, seconds int)
	asked  atomic.Int64
	status atomic.Int64 // answered instead, when it is not 0
}

func newGrantService(t *testing.T, issue func() (string, int)) *grantService {
	s := &grantService{issue: issue}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		s.asked.Add(1)
		id, secret, _ := req.BasicAuth()
		_ = req.ParseForm()
		switch {
		case s.status.Load() != 0:
			w.WriteHeader(int(s.status.Load()))
		case req.Method != http.MethodPost || req.PostForm.Get("grant_type") != "client_credentials" || req.PostForm.Get("scope") != "pull":
			w.WriteHeader(http.StatusBadRequest)
		case id != "client%3A1" || secret != "its+secret":
			w.WriteHeader(http.StatusUnauthorized)
		default:
			token, seconds := s.issue()
			_ = json.NewEncoder(w).Encode(map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": seconds})
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// client is a login by the service.
func (s *grantService) client(t *testing.T) func(*UpstreamOptions) {
	file := filepath.Join(t.TempDir(), "secret")
	writeFile(t, file, "its secret\n")
	return func(o *UpstreamOptions) {
		o.ClientID, o.ClientSecretFile, o.TokenURL, o.Scope = "client:1", file, s.URL+"/token", "pull"
	}
}

func TestAClientsTokenIsShownAndRenewedBeforeItEndsInTheMiddleOfAPull(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBearer})
	image := r.AddImage("a/b", "v1", registrytest.Bytes(1, 100), registrytest.Bytes(2, 100))
	s := newGrantService(t, func() (string, int) { return r.Token("a/b"), 60 })
	at := newClock()
	u := upstreamIn(t, upstreamEnv{now: at.now}, r, s.client(t))
	got, err := u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
	noErr(t, err)
	if got.Anonymous || !u.status().Authenticated {
		t.Error("it does not count as got with a credential")
	}
	at.advance(51 * time.Second) // 9 s are left
	refused := 0
	for _, layer := range image.Layers {
		body, err := u.blob("a/b", layer.Digest).Open(t.Context(), 0, -1)
		noErr(t, err)
		readAll(t, body)
	}
	for _, asked := range r.Requests("", "^/v2/a/b/") {
		if asked.Status() == http.StatusUnauthorized {
			refused++
		}
	}
	if s.asked.Load() != 2 || refused != 0 || r.Count("", "^/token") != 0 {
		t.Errorf("%d tokens, %d refusals, want 2 and none", s.asked.Load(), refused)
	}
}

func TestAClientsTokenIsThePasswordOfAUser(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBasic})
	r.AddUser("oauth2accesstoken", "a token", "a/b")
	r.AddImage("a/b", "v1")
	s := newGrantService(t, func() (string, int) { return "a token", 0 })
	u := upstreamOf(t, r, s.client(t), func(o *UpstreamOptions) { o.Username = "oauth2accesstoken" })
	_, err := u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
	noErr(t, err)
}

func TestAClientThatIsRefusedIsNoFourOhFourAndNoStorm(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBearer})
	r.AddImage("a/b", "v1")
	s := newGrantService(t, func() (string, int) { return "no token of this registry's", 3600 })
	u := upstreamOf(t, r, s.client(t))
	for range 3 {
		_, err := u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
		wantCode(t, err, CodeUnauthorized)
	}
	if n := s.asked.Load(); n != 1 {
		t.Errorf("%d tokens were asked for, because upstream refused the first", n)
	}
	for status, want := range map[int64]Code{400: CodeUnauthorized, 401: CodeUnauthorized, 429: CodeTooMany, 503: CodeUnavailable} {
		s.status.Store(status)
		u := upstreamOf(t, r, s.client(t))
		_, err := u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
		mustNotContain(t, wantCode(t, err, want).Error(), "its secret")
	}
}

func TestOneTokenForAllClientsAskers(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBearer})
	r.AddImage("a/b", "v1")
	s := newGrantService(t, func() (string, int) { return r.Token("a/b"), 3600 })
	u := upstreamOf(t, r, s.client(t))
	var askers sync.WaitGroup
	for range 20 {
		askers.Go(func() {
			if _, err := u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1")); err != nil {
				t.Error(err)
			}
		})
	}
	askers.Wait()
	if n := s.asked.Load(); n != 1 {
		t.Errorf("%d tokens", n)
	}
}

func TestAClientsSecretGoesToHttpsOnly(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	writeFile(t, file, "x")
	for _, at := range []string{"http://login.example/token", "ftp://login.example", "login.example/token", "https://u:p@login.example/"} {
		_, err := newUpstream(UpstreamOptions{Name: "registry.test", ClientID: "a", ClientSecretFile: file, TokenURL: at}, upstreamEnv{})
		if err == nil || !strings.Contains(err.Error(), "token_url") {
			t.Errorf("%s: %v", at, err)
		}
	}
	_, err := newUpstream(UpstreamOptions{Name: "registry.test", ClientID: "a", ClientSecretFile: file + ".not", TokenURL: "https://login.example"}, upstreamEnv{})
	if err == nil || !strings.Contains(err.Error(), "client_secret_file") {
		t.Errorf("without a secret: %v", err)
	}
}

// A service that takes a refresh token once, and gives another with each token.
func TestARefreshTokenThatIsReplacedIsNotShownAgain(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBearer, Realm: "to be set"})
	r.AddImage("a/b", "v1")
	r.AddImage("a/c", "v1")
	var shown []string
	var mu sync.Mutex
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_ = req.ParseForm()
		mu.Lock()
		defer mu.Unlock()
		shown = append(shown, req.Method+" "+req.PostForm.Get("grant_type")+" "+req.PostForm.Get("refresh_token"))
		path := strings.TrimSuffix(strings.TrimPrefix(req.PostForm.Get("scope"), "repository:"), ":pull")
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": r.Token(path), "refresh_token": "next", "expires_in": 60})
	}))
	t.Cleanup(service.Close)
	r.Add(registrytest.Rule{Path: "^/v2/", Lie: registrytest.ChallengeRealm(service.URL + "/token")})
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_RUNTIME_DIR", home)
	t.Setenv("REGISTRY_AUTH_FILE", "")
	t.Setenv("DOCKER_CONFIG", home)
	config := `{"auths":{"` + r.Host() + `":{"identitytoken":"first"}}}`
	noErr(t, os.WriteFile(filepath.Join(home, "config.json"), []byte(config), 0o600))
	at := newClock()
	u := upstreamIn(t, upstreamEnv{now: at.now}, r)
	for _, path := range []string{"a/b", "a/c"} {
		_, err := u.manifest(context.Background(), path, tagged(r, path, "v1"))
		noErr(t, err)
	}
	at.advance(time.Minute)
	_, err := u.manifest(context.Background(), "a/b", tagged(r, "a/b", "v1"))
	noErr(t, err)
	mu.Lock()
	defer mu.Unlock()
	if got := strings.Join(shown, ", "); got != "POST refresh_token first, POST refresh_token next, POST refresh_token next" {
		t.Errorf("shown were: %s", got)
	}
}

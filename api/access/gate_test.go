package access

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"golang.org/x/crypto/bcrypt"
)

// clock is a clock that the test moves. It begins now, for issuers' libraries
// look at the real one.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func line(t *testing.T, user, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return user + ":" + string(hash) + "\n"
}

func write(t *testing.T, path, content string, at time.Time) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, []byte(content), 0o600), os.Chtimes(path, at, at)); err != nil {
		t.Fatal(err)
	}
}

func asking(user, password, token string) *http.Request {
	r := httptest.NewRequest("GET", "http://cache.example/v2/", nil)
	switch {
	case token != "":
		r.Header.Set("Authorization", "Bearer "+token)
	case user+password != "":
		r.SetBasicAuth(user, password)
	}
	return r
}

func wantCaller(t *testing.T, g *Gate, r *http.Request, want string) {
	t.Helper()
	c, err := g.Identify(r)
	if err != nil || c.Name != want {
		t.Errorf("%v, %v, want %s", c, err, want)
	}
}

func wantRefused(t *testing.T, g *Gate, r *http.Request) *Refusal {
	t.Helper()
	c, err := g.Identify(r)
	var refused *Refusal
	if !errors.As(err, &refused) {
		t.Fatalf("%v, %v, want that it is refused", c, err)
	}
	return refused
}

func TestPasswords(t *testing.T) {
	at := &clock{time.Now()}
	file := filepath.Join(t.TempDir(), "htpasswd")
	write(t, file, "# users\n\n"+line(t, "ann", "secret"), at.now())
	var log bytes.Buffer
	g, err := New(Options{HtpasswdFile: file, Now: at.now, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	wantCaller(t, g, asking("", "", ""), Anonymous)
	for range 2 { // the second time from memory
		wantCaller(t, g, asking("ann", "secret", ""), "user:ann")
	}
	for _, r := range []*http.Request{asking("ann", "wrong", ""), asking("ann", "", ""), asking("bob", "secret", ""), asking("", "secret", ""), asking("", "", "a.b.c")} {
		wantRefused(t, g, r)
	}
	r := asking("", "", "")
	for _, odd := range []string{"Basic !", "Basic", "Digest x", "Basic " + strings.Repeat("a", maxCredential+1)} {
		r.Header.Set("Authorization", odd)
		wantRefused(t, g, r)
	}
	// The file changes: at the next look the old password is none any more.
	write(t, file, line(t, "ann", "new")+line(t, "bob", "his"), at.now().Add(time.Minute))
	at.at = at.at.Add(2 * lookEvery)
	wantCaller(t, g, asking("ann", "new", ""), "user:ann")
	wantCaller(t, g, asking("bob", "his", ""), "user:bob")
	wantRefused(t, g, asking("ann", "secret", ""))
	// A file that is broken, or gone, leaves what was read before. The log says so once.
	write(t, file, "ann:plain\n", at.now().Add(2*time.Minute))
	for range 3 {
		at.at = at.at.Add(2 * lookEvery)
		wantCaller(t, g, asking("bob", "his", ""), "user:bob")
	}
	if told := log.String(); strings.Count(told, "level=WARN") != 1 || !strings.Contains(told, "line 1 is not a user") || strings.Contains(told, "plain") {
		t.Errorf("the log says %q", told)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	at.at = at.at.Add(2 * lookEvery)
	wantCaller(t, g, asking("bob", "his", ""), "user:bob")
	if _, err := New(Options{HtpasswdFile: file}); err == nil {
		t.Error("a file that is not there is taken")
	}
}

func TestGuessersAreLockedOut(t *testing.T) {
	at := &clock{time.Now()}
	file := filepath.Join(t.TempDir(), "htpasswd")
	write(t, file, line(t, "ann", "secret")+line(t, "bob", "his"), at.now())
	g, err := New(Options{HtpasswdFile: file, Now: at.now})
	if err != nil {
		t.Fatal(err)
	}
	for range guessesOfOne {
		if wait := wantRefused(t, g, asking("ann", "wrong", "")).Wait; wait != 0 {
			t.Fatalf("locked out too early, for %s", wait)
		}
	}
	if wantRefused(t, g, asking("ann", "secret", "")).Wait <= 0 {
		t.Error("who guessed is not locked out")
	}
	wantCaller(t, g, asking("bob", "his", ""), "user:bob")
	elsewhere := asking("ann", "secret", "")
	elsewhere.RemoteAddr = "192.0.2.9:1"
	elsewhere.Header.Set("X-Forwarded-For", "192.0.2.1")
	wantCaller(t, g, elsewhere, "user:ann")
	forged := asking("ann", "secret", "")
	forged.Header.Set("X-Forwarded-For", "192.0.2.9")
	wantRefused(t, g, forged)
	at.at = at.at.Add(lockedFor + time.Second)
	wantCaller(t, g, asking("ann", "secret", ""), "user:ann")
}

func TestTokensOfOurs(t *testing.T) {
	at := &clock{time.Now()}
	file := filepath.Join(t.TempDir(), "htpasswd")
	write(t, file, line(t, "ann", "secret"), at.now())
	g, err := New(Options{HtpasswdFile: file, Now: at.now})
	if err != nil {
		t.Fatal(err)
	}
	given, err := g.Token(Caller{Name: "user:ann", Groups: []string{"dev"}})
	if err != nil || given.Token == "" || given.ExpiresIn != int(tokenFor/time.Second) {
		t.Fatalf("%+v, %v", given, err)
	}
	c, err := g.Identify(asking("", "", given.Token))
	if err != nil || c.Name != "user:ann" || len(c.Groups) != 1 {
		t.Errorf("%v, %v", c, err)
	}
	wantCaller(t, g, asking("token", given.Token, ""), "user:ann") // what some clients do with it
	other, err := New(Options{HtpasswdFile: file, Now: at.now})
	if err != nil {
		t.Fatal(err)
	}
	wantRefused(t, other, asking("", "", given.Token)) // of another key
	head, rest, _ := strings.Cut(given.Token, ".")
	claims, _, _ := strings.Cut(rest, ".")
	for _, forged := range []string{"eyJhbGciOiJub25lIn0." + claims + ".", head + "." + claims + ".AAAA", given.Token + "x"} {
		wantRefused(t, g, asking("", "", forged))
	}
	at.at = at.at.Add(tokenFor + time.Second)
	wantRefused(t, g, asking("", "", given.Token))
}

// issuerOf is an OpenID Connect issuer.
type issuerOf struct {
	*httptest.Server
	key   *rsa.PrivateKey
	asked int
	down  bool
}

func newIssuer(t *testing.T) *issuerOf {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuerOf{key: key}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		i.asked++
		if i.down {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/keys", "authorization_endpoint": i.URL, "token_endpoint": i.URL,
			"id_token_signing_alg_values_supported": []string{"RS256"}})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "RS256", Use: "sig"}}})
	})
	i.Server = httptest.NewServer(mux)
	t.Cleanup(i.Close)
	return i
}

func (i *issuerOf) sign(t *testing.T, algorithm jose.SignatureAlgorithm, key any, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "k"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestTokensOfIssuers(t *testing.T) {
	at, i := &clock{time.Now()}, newIssuer(t)
	g, err := New(Options{Now: at.now, Issuers: []IssuerOptions{{URL: i.URL, Audience: "cache", UsernameClaim: "email"}}})
	if err != nil {
		t.Fatal(err)
	}
	if i.asked != 0 {
		t.Error("the start asked the issuer")
	}
	claims := func(change func(map[string]any)) map[string]any {
		c := map[string]any{"iss": i.URL, "aud": "cache", "sub": "1", "email": "ann@example", "groups": []string{"dev"},
			"exp": at.now().Add(time.Hour).Unix(), "iat": at.now().Unix()}
		change(c)
		return c
	}
	good := i.sign(t, jose.RS256, i.key, claims(func(map[string]any) {}))
	i.down = true
	wantRefused(t, g, asking("", "", good))
	i.down = false
	wantRefused(t, g, asking("", "", good)) // it is left alone for a while
	at.at = at.at.Add(issuerAgain + time.Second)
	c, err := g.Identify(asking("", "", good))
	if err != nil || c.Name != "oidc:ann@example" || len(c.Groups) != 1 || c.Groups[0] != "dev" {
		t.Errorf("%v, %v", c, err)
	}
	wantCaller(t, g, asking("oidc", good, ""), "oidc:ann@example")
	another, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := json.Marshal(jose.JSONWebKey{Key: i.key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"another audience": i.sign(t, jose.RS256, i.key, claims(func(c map[string]any) { c["aud"] = "other" })),
		"expired":          i.sign(t, jose.RS256, i.key, claims(func(c map[string]any) { c["exp"] = at.now().Add(-time.Minute).Unix() })),
		"another key":      i.sign(t, jose.RS256, another, claims(func(map[string]any) {})),
		"another issuer":   i.sign(t, jose.RS256, i.key, claims(func(c map[string]any) { c["iss"] = "https://elsewhere.example" })),
		"the public key":   i.sign(t, jose.HS256, public, claims(func(map[string]any) {})),
		"no name":          i.sign(t, jose.RS256, i.key, claims(func(c map[string]any) { delete(c, "email") })),
		"unsigned":         "eyJhbGciOiJub25lIn0." + strings.Split(good, ".")[1] + ".",
	} {
		t.Run(name, func(t *testing.T) { wantRefused(t, g, asking("", "", token)) })
	}
	if _, err := New(Options{Issuers: []IssuerOptions{{URL: i.URL}}}); err == nil {
		t.Error("an issuer without an audience is taken")
	}
}

func TestLimits(t *testing.T) {
	at := &clock{time.Now()}
	g, err := New(Options{Now: at.now, Rate: 2, AtOnce: 3})
	if err != nil {
		t.Fatal(err)
	}
	r, ann := asking("", "", ""), Caller{Name: "user:ann"}
	var held []func()
	for range 3 {
		done, err := g.Enter(r, ann)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, done)
	}
	if _, err := g.Enter(r, ann); err == nil {
		t.Error("a fourth at once is let in")
	}
	if done, err := g.Enter(r, nobody); err != nil {
		t.Errorf("another caller: %v", err)
	} else {
		done()
	}
	for _, done := range held {
		done()
	}
	n := 3
	for ; n < 100; n++ {
		done, err := g.Enter(r, ann)
		if err != nil {
			break
		}
		done()
	}
	if n != 20 {
		t.Errorf("%d requests in a burst", n)
	}
	at.at = at.at.Add(time.Second)
	for range 2 {
		if done, err := g.Enter(r, ann); err != nil {
			t.Error(err)
		} else {
			done()
		}
	}
}

// TestAWaitForItsTurnEndsWithTheRequest: behind others' guesses nobody waits
// longer than its client does, and to leave is no guess.
func TestAWaitForItsTurnEndsWithTheRequest(t *testing.T) {
	at := &clock{time.Now()}
	file := filepath.Join(t.TempDir(), "htpasswd")
	write(t, file, line(t, "ann", "secret"), at.now())
	g, err := New(Options{HtpasswdFile: file, Now: at.now})
	if err != nil {
		t.Fatal(err)
	}
	for range cap(g.turns.slots) {
		g.turns.slots <- struct{}{}
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	for range guessesOfOne + 1 {
		wantRefused(t, g, asking("ann", "secret", "").WithContext(gone))
	}
	for range cap(g.turns.slots) {
		<-g.turns.slots
	}
	wantCaller(t, g, asking("ann", "secret", ""), "user:ann")
}

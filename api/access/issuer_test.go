package access

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// publisher is an issuer that publishes whatever keys it is given, and counts
// how often it is asked for them.
type publisher struct {
	*httptest.Server

	mu    sync.Mutex // guards what follows
	keys  []jose.JSONWebKey
	down  bool
	asked int
}

func newPublisher(t *testing.T, start func(http.Handler) *httptest.Server, keys ...jose.JSONWebKey) *publisher {
	t.Helper()
	p := &publisher{keys: keys}
	p.Server = start(http.HandlerFunc(p.serve))
	t.Cleanup(p.Close)
	return p
}

func (p *publisher) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.down:
		http.Error(w, "down", http.StatusServiceUnavailable)
	case r.URL.Path == "/keys":
		p.asked++
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: p.keys})
	default:
		json.NewEncoder(w).Encode(map[string]any{"issuer": p.URL, "jwks_uri": p.URL + "/keys", "authorization_endpoint": p.URL, "token_endpoint": p.URL})
	}
}

func (p *publisher) now(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *publisher) times() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// pairOf is a key and what is published of it.
type pairOf struct {
	algorithm jose.SignatureAlgorithm
	private   crypto.Signer
	public    jose.JSONWebKey
}

func newPair(t *testing.T, algorithm jose.SignatureAlgorithm, id string) pairOf {
	t.Helper()
	var key crypto.Signer
	var err error
	switch algorithm {
	case jose.ES256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.EdDSA:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pairOf{algorithm, key, jose.JSONWebKey{Key: key.Public(), KeyID: id, Use: "sig"}}
}

// sign makes a token; id "" leaves the key's out.
func (k pairOf) sign(t *testing.T, id string, claims map[string]any) string {
	t.Helper()
	options := &jose.SignerOptions{}
	if id != "" {
		options.WithHeader("kid", id)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: k.algorithm, Key: k.private}, options)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// saying are the claims of a good token, but for what is told; nil takes one away.
func saying(at *clock, issuer string, other map[string]any) map[string]any {
	all := map[string]any{"iss": issuer, "aud": "cache", "sub": "ann", "exp": at.now().Add(time.Hour).Unix(), "iat": at.now().Unix()}
	for claim, value := range other {
		if all[claim] = value; value == nil {
			delete(all, claim)
		}
	}
	return all
}

// TestTokensOfAllKinds that issuers make: of clouds, of CI farms, of Kubernetes.
func TestTokensOfAllKinds(t *testing.T) {
	at := &clock{time.Now()}
	pairs := []pairOf{newPair(t, jose.RS256, "rs"), newPair(t, jose.ES256, "es"), newPair(t, jose.EdDSA, "ed")}
	p := newPublisher(t, httptest.NewServer, pairs[0].public, pairs[1].public, pairs[2].public)
	g, err := New(Options{Now: at.now, Issuers: []IssuerOptions{{URL: p.URL, Audience: "cache"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, pair := range pairs {
		wantCaller(t, g, asking("", "", pair.sign(t, pair.public.KeyID, saying(at, p.URL, nil))), "oidc:ann")
		wantCaller(t, g, asking("", "", pair.sign(t, "", saying(at, p.URL, nil))), "oidc:ann") // by all keys
		wantRefused(t, g, asking("", "", pair.sign(t, "another", saying(at, p.URL, nil))))
	}
	es := pairs[1]
	for name, c := range map[string]struct {
		claims map[string]any
		want   string // "": refused
	}{
		"several audiences":  {map[string]any{"aud": []string{"other", "cache"}, "azp": "other"}, "oidc:ann"},
		"others' audiences":  {map[string]any{"aud": []string{"other", "cache.example"}}, ""},
		"no audience":        {map[string]any{"aud": nil}, ""},
		"a fast clock":       {map[string]any{"nbf": at.now().Add(time.Minute).Unix(), "iat": at.now().Add(time.Minute).Unix()}, "oidc:ann"},
		"of tomorrow":        {map[string]any{"nbf": at.now().Add(24 * time.Hour).Unix()}, ""},
		"without an end":     {map[string]any{"exp": nil}, ""},
		"a CI's":             {map[string]any{"sub": "repo:team/app:ref:refs/heads/main"}, "oidc:repo:team/app:ref:refs/heads/main"},
		"Kubernetes'":        {map[string]any{"sub": "system:serviceaccount:build:robot", "aud": []string{"cache"}}, "oidc:system:serviceaccount:build:robot"},
		"a name of no text":  {map[string]any{"sub": 5}, ""},
		"an endless name":    {map[string]any{"sub": strings.Repeat("a", maxName+1)}, ""},
		"hundreds of groups": {map[string]any{"groups": strings.Split(strings.Repeat("0a1b2c3d-0000-0000-0000-000000000000 ", 250), " ")}, "oidc:ann"},
		"more than we take":  {map[string]any{"groups": strings.Repeat("x", maxCredential)}, ""},
		"groups of no texts": {map[string]any{"groups": []any{1, nil, map[string]any{}}}, "oidc:ann"},
		"another issuer's":   {map[string]any{"iss": "https://elsewhere.example"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			token := es.sign(t, "es", saying(at, p.URL, c.claims))
			for _, r := range []*http.Request{asking("", "", token), asking("oauth", token, "")} {
				if c.want == "" {
					wantRefused(t, g, r)
				} else {
					wantCaller(t, g, r, c.want)
				}
			}
		})
	}
}

func TestAnEmailThatIsNotVerifiedIsNobodys(t *testing.T) {
	at, pair := &clock{time.Now()}, newPair(t, jose.ES256, "k")
	p := newPublisher(t, httptest.NewServer, pair.public)
	g, err := New(Options{Now: at.now, Issuers: []IssuerOptions{{URL: p.URL, Audience: "cache", UsernameClaim: "email", Prefix: "corp:"}}})
	if err != nil {
		t.Fatal(err)
	}
	token := func(verified any) *http.Request {
		return asking("", "", pair.sign(t, "k", saying(at, p.URL, map[string]any{"email": "ann@example", "email_verified": verified, "groups": "dev"})))
	}
	for _, verified := range []any{false, "false"} {
		wantRefused(t, g, token(verified))
	}
	for _, verified := range []any{true, nil} {
		c, err := g.Identify(token(verified))
		if err != nil || c.Name != "oidc:corp:ann@example" || len(c.Groups) != 1 || c.Groups[0] != "corp:dev" {
			t.Errorf("%v, %v", c, err)
		}
	}
}

// TestAnIssuersKeysChange: new ones are taken when a token wants them, those
// that were taken back end, and while the issuer is down those that are known do.
func TestAnIssuersKeysChange(t *testing.T) {
	at, first, second := &clock{time.Now()}, newPair(t, jose.ES256, "1"), newPair(t, jose.ES256, "2")
	p := newPublisher(t, httptest.NewServer, first.public)
	g, err := New(Options{Now: at.now, Issuers: []IssuerOptions{{URL: p.URL, Audience: "cache"}}})
	if err != nil {
		t.Fatal(err)
	}
	by := func(pair pairOf) *http.Request {
		return asking("", "", pair.sign(t, pair.public.KeyID, saying(at, p.URL, nil)))
	}
	wantCaller(t, g, by(first), "oidc:ann")
	p.now(func() { p.keys = []jose.JSONWebKey{second.public} })
	for range 100 { // whoever writes such tokens does not make us ask
		wantRefused(t, g, by(second))
	}
	if n := p.times(); n != 1 {
		t.Errorf("the issuer was asked %d times", n)
	}
	at.at = at.at.Add(issuerAgain)
	wantCaller(t, g, by(second), "oidc:ann")
	wantRefused(t, g, by(first)) // it was taken back
	// Down, and the keys are old: they are used, and the issuer is asked beside.
	p.now(func() { p.down = true })
	at.at = at.at.Add(keysFor)
	wantCaller(t, g, by(second), "oidc:ann")
	if refused := wantRefused(t, g, by(first)); !refused.Unavailable || !errors.Is(refused, errIssuerSilent) {
		t.Errorf("an issuer that is down may know the key, but %v", refused)
	}
	// Up again, with another key: the one that was taken back ends though no token asks for a new one.
	p.now(func() { p.down, p.keys = false, []jose.JSONWebKey{first.public} })
	at.at = at.at.Add(issuerAgain)
	wantCaller(t, g, by(second), "oidc:ann")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if _, err := g.Identify(by(second)); err != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a key that was taken back is good for ever")
		}
	}
	wantCaller(t, g, by(first), "oidc:ann")
}

func TestAnIssuerThatIsDownAtTheStartIsNotTheCallersFault(t *testing.T) {
	at, pair := &clock{time.Now()}, newPair(t, jose.ES256, "k")
	p := newPublisher(t, httptest.NewServer, pair.public)
	p.now(func() { p.down = true })
	g, err := New(Options{Now: at.now, Issuers: []IssuerOptions{{URL: p.URL, Audience: "cache"}}})
	if err != nil {
		t.Fatal(err)
	}
	token := asking("", "", pair.sign(t, "k", saying(at, p.URL, nil)))
	for range 3 {
		if refused := wantRefused(t, g, token); !refused.Unavailable {
			t.Errorf("refused as if the token were wrong: %v", refused)
		}
	}
	p.now(func() { p.down = false })
	at.at = at.at.Add(issuerAgain)
	wantCaller(t, g, token, "oidc:ann")
}

// TestAnIssuerOfItsOwnAuthority speaks TLS with a certificate that only ca_file
// vouches for.
func TestAnIssuerOfItsOwnAuthority(t *testing.T) {
	at, pair := &clock{time.Now()}, newPair(t, jose.ES256, "k")
	p := newPublisher(t, httptest.NewTLSServer, pair.public)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	write(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})), at.now())
	for file, good := range map[string]bool{ca: true, "": false} {
		g, err := New(Options{Now: at.now, Issuers: []IssuerOptions{{URL: p.URL, Audience: "cache", CAFile: file}}})
		if err != nil {
			t.Fatal(err)
		}
		token := asking("", "", pair.sign(t, "k", saying(at, p.URL, nil)))
		if good {
			wantCaller(t, g, token, "oidc:ann")
		} else if refused := wantRefused(t, g, token); !refused.Unavailable || !strings.Contains(refused.Error(), "certificate") {
			t.Errorf("the log is told %v", refused)
		}
	}
}

// TestKeysOfAFile need no network, and are read again when they change.
func TestKeysOfAFile(t *testing.T) {
	at, first, second := &clock{time.Now()}, newPair(t, jose.RS256, "1"), newPair(t, jose.EdDSA, "2")
	file := filepath.Join(t.TempDir(), "keys.json")
	publish := func(keys ...jose.JSONWebKey) {
		t.Helper()
		content, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		write(t, file, string(content), at.now())
	}
	const issuer = "https://kubernetes.default.svc"
	var log bytes.Buffer
	options := Options{Now: at.now, Log: slog.New(slog.NewTextHandler(&log, nil)), Issuers: []IssuerOptions{{URL: issuer, Audience: "cache", KeysFile: file}}}
	by := func(pair pairOf) *http.Request {
		return asking("", "", pair.sign(t, pair.public.KeyID, saying(at, issuer, nil)))
	}
	publish(first.public)
	g, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	wantCaller(t, g, by(first), "oidc:ann")
	wantRefused(t, g, by(second))
	at.at = at.at.Add(2 * lookEvery)
	publish(second.public)
	wantCaller(t, g, by(second), "oidc:ann")
	wantRefused(t, g, by(first))
	at.at = at.at.Add(2 * lookEvery)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		wantCaller(t, g, by(second), "oidc:ann")
		at.at = at.at.Add(2 * lookEvery)
	}
	if told := log.String(); strings.Count(told, "level=WARN") != 1 || !strings.Contains(told, file) {
		t.Errorf("the log says %q", told)
	}
	for name, content := range map[string]string{"nothing": "", "no keys": `{"keys":[]}`, "a secret": `{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`} {
		write(t, file, content, at.now())
		if _, err := New(options); err == nil {
			t.Errorf("%s is taken for keys", name)
		}
	}
}

// TestATokenEndsWithWhatWasShownForIt: neither does a token of an issuer live
// on in ours, nor does ours buy the next.
func TestATokenEndsWithWhatWasShownForIt(t *testing.T) {
	at, pair := &clock{time.Now()}, newPair(t, jose.ES256, "k")
	p := newPublisher(t, httptest.NewServer, pair.public)
	g, err := New(Options{Now: at.now, Issuers: []IssuerOptions{{URL: p.URL, Audience: "cache"}}})
	if err != nil {
		t.Fatal(err)
	}
	shown := pair.sign(t, "k", saying(at, p.URL, map[string]any{"exp": at.now().Add(2 * time.Minute).Unix()}))
	for range 3 {
		c, err := g.Identify(asking("", "", shown))
		if err != nil {
			t.Fatal(err)
		}
		given, err := g.Token(c)
		if err != nil || given.ExpiresIn > 120 {
			t.Fatalf("%+v, %v", given, err)
		}
		shown = given.Token
		at.at = at.at.Add(30 * time.Second)
	}
	at.at = at.at.Add(time.Minute)
	wantRefused(t, g, asking("", "", shown))
}

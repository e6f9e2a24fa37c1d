//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Names that the token service and the registry agree on.
const (
	tokenIssuer   = "e2e tokens"
	tokenAudience = "e2e registry"
)

// tokenService gives bearer tokens as the distribution project's token specification says. The tokens are signed with a key whose
// certificate stands in their x5c header and in the registry's bundle of roots.
type tokenService struct {
	server      *httptest.Server
	key         *ecdsa.PrivateKey
	certificate []byte // DER

	mu       sync.Mutex // guards what follows
	requests []tokenRequest
	accounts map[string]account // besides puller and pusher; one of the same name replaces
	life     time.Duration      // of tokens that are signed from now on; 0: five minutes
	issued   []string           // tokens
}

// account is one that may pull from some repositories; from none when it is locked.
type account struct {
	password     string
	repositories []string
	locked       bool
}

// allow lets a user pull from these repositories, and no others.
func (s *tokenService) allow(user, password string, repositories ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.accounts == nil {
		s.accounts = map[string]account{}
	}
	s.accounts[user] = account{password: password, repositories: repositories}
}

// lock refuses a user from now on.
func (s *tokenService) lock(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.accounts == nil {
		s.accounts = map[string]account{}
	}
	s.accounts[user] = account{locked: true}
}

// lives sets how long tokens live that are signed from now on. What is said of them stays five minutes.
func (s *tokenService) lives(life time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.life = life
}

// tokens are all that were issued.
func (s *tokenService) tokens() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.issued...)
}

// knows checks a user's password.
func (s *tokenService) knows(user, password string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a, ok := s.accounts[user]; ok {
		return !a.locked && a.password == password
	}
	known := map[string]string{"": "", puller: pullerPassword, pusher: pusherPassword}
	right, ok := known[user]
	return ok && right == password
}

// granted is what a user gets of what was asked for.
func (s *tokenService) granted(user, scopes string) []tokenAccess {
	s.mu.Lock()
	a, ok := s.accounts[user]
	s.mu.Unlock()
	if !ok {
		return grant(user, scopes)
	}
	access := grant(puller, scopes)
	for i := range access {
		if !slices.Contains(a.repositories, access[i].Name) {
			access[i].Actions = []string{}
		}
	}
	return access
}

// tokenRequest is what somebody asked the token service for.
type tokenRequest struct {
	user   string // "" for nobody
	scopes string
	status int
}

// startTokenService starts one; the end of the test ends it.
func startTokenService(t *testing.T) *tokenService {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: tokenIssuer},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	s := &tokenService{key: key, certificate: certificate}
	s.server = httptest.NewServer(s)
	t.Cleanup(s.server.Close)
	return s
}

// settings writes the bundle of roots and gives the registry's settings for it.
func (s *tokenService) settings(t *testing.T, bundle string) string {
	t.Helper()
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.certificate})
	if err := os.WriteFile(bundle, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("{token: {realm: %q, service: %q, issuer: %q, rootcertbundle: %q}}",
		s.server.URL+"/token", tokenAudience, tokenIssuer, bundle)
}

// asked gives the requests so far.
func (s *tokenService) asked() []tokenRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]tokenRequest(nil), s.requests...)
}

// tokenAccess is what a token allows.
type tokenAccess struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// ServeHTTP answers GET /token?service=…&scope=repository:NAME:ACTIONS…
func (s *tokenService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	asked := tokenRequest{user: user, scopes: strings.Join(r.URL.Query()["scope"], " "), status: http.StatusOK}
	switch {
	case r.Method != http.MethodGet || r.URL.Path != "/token":
		asked.status = http.StatusNotFound
	case !s.knows(user, password):
		asked.status = http.StatusUnauthorized
	}
	s.mu.Lock()
	s.requests = append(s.requests, asked)
	s.mu.Unlock()
	if asked.status != http.StatusOK {
		http.Error(w, http.StatusText(asked.status), asked.status)
		return
	}
	token, err := s.sign(user, s.granted(user, asked.scopes))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	// Without issued_at, as some services do: imagecache must keep such tokens as well.
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": 300})
}

// grant cuts what was asked for down to what the user may do.
func grant(user, scopes string) []tokenAccess {
	rights := map[string]map[string]bool{puller: {"pull": true}, pusher: {"pull": true, "push": true}}[user]
	granted := []tokenAccess{}
	for _, scope := range strings.Fields(scopes) {
		kind, rest, _ := strings.Cut(scope, ":")
		last := strings.LastIndex(rest, ":")
		if kind != "repository" || last < 0 {
			continue
		}
		access := tokenAccess{Type: kind, Name: rest[:last], Actions: []string{}}
		for _, action := range strings.Split(rest[last+1:], ",") {
			if rights[action] {
				access.Actions = append(access.Actions, action)
			}
		}
		granted = append(granted, access)
	}
	return granted
}

// sign makes a JSON web token (RFC 7519) with ES256: the signature is r and s, 32 bytes each (RFC 7518 section 3.4).
func (s *tokenService) sign(user string, access []tokenAccess) (string, error) {
	now := time.Now()
	s.mu.Lock()
	ends := now.Add(5 * time.Minute)
	if s.life != 0 {
		ends = now.Add(s.life)
	}
	s.mu.Unlock()
	header, err := json.Marshal(map[string]any{
		"typ": "JWT", "alg": "ES256", "x5c": []string{base64.StdEncoding.EncodeToString(s.certificate)},
	})
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{
		"iss": tokenIssuer, "sub": user, "aud": tokenAudience, "jti": rand.Text(),
		"iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": ends.Unix(),
		"access": access,
	})
	if err != nil {
		return "", err
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode(header) + "." + encode(claims)
	hash := sha256.Sum256([]byte(signed))
	r, v, err := ecdsa.Sign(rand.Reader, s.key, hash[:])
	if err != nil {
		return "", err
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	v.FillBytes(signature[32:])
	token := signed + "." + encode(signature)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issued = append(s.issued, token)
	return token, nil
}

package access

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// issuerTimeout bounds each question to an issuer: a caller waits for it.
const issuerTimeout = 5 * time.Second

// IssuerOptions say which tokens of an OpenID Connect issuer are taken.
type IssuerOptions struct {
	URL           string // as in the tokens' iss; its discovery document is below
	Audience      string // that tokens must be for
	UsernameClaim string // default: sub
	GroupsClaim   string // default: groups
	CAFile        string // PEM, trusted besides the system's
	// KeysFile holds the issuer's public keys, a JSON Web Key Set: the issuer is
	// not asked then.
	KeysFile string
	// Prefix stands before the names and groups of its tokens, so that those of
	// two issuers are not taken for each other: "ci:" makes oidc:ci:NAME.
	Prefix string
}

// signedBy are the algorithms that an issuer may sign by. None of them is
// symmetric: a public key must never be taken for a secret.
var signedBy = []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.EdDSA}

// issuers checks tokens of issuers, each of which is asked for its keys when
// the first token of it comes: the start needs no network.
type issuers struct {
	byURL map[string]*tokenIssuer
	now   func() time.Time
}

type tokenIssuer struct {
	options IssuerOptions
	client  *http.Client

	mu     sync.Mutex // held while it is asked, so that it is asked once
	keys   oidc.KeySet
	failed time.Time
	why    error
}

func newIssuers(all []IssuerOptions, now func() time.Time, log *slog.Logger) (*issuers, error) {
	i := &issuers{byURL: map[string]*tokenIssuer{}, now: now}
	for _, o := range all {
		if o.URL == "" || o.Audience == "" {
			return nil, errors.New("an issuer needs a url and an audience: without one, tokens for anybody would be taken")
		}
		client, err := issuerClient(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("issuer %s: %w", o.URL, err)
		}
		if o.UsernameClaim == "" {
			o.UsernameClaim = "sub"
		}
		if o.GroupsClaim == "" {
			o.GroupsClaim = "groups"
		}
		t := &tokenIssuer{options: o, client: client}
		if o.KeysFile != "" {
			if t.keys, err = openKeyFile(o.KeysFile, now, log); err != nil {
				return nil, fmt.Errorf("issuer %s: %w", o.URL, err)
			}
		}
		if i.byURL[o.URL] != nil {
			return nil, fmt.Errorf("issuer %s is there twice", o.URL)
		}
		i.byURL[o.URL] = t
	}
	return i, nil
}

func issuerClient(caFile string) (*http.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxResponseHeaderBytes = 64 << 10
	client := &http.Client{Transport: limited{transport}, Timeout: issuerTimeout}
	if caFile == "" {
		return client, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", caFile)
	}
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return client, nil
}

// limited bounds what is read of an issuer's answers.
type limited struct{ http.RoundTripper }

func (l limited) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := l.RoundTripper.RoundTrip(r)
	if err == nil {
		res.Body = http.MaxBytesReader(nil, res.Body, maxKeys)
	}
	return res, err
}

// take reads a token of an issuer. The error is errNotOurs for what is no such
// token, so that it may be something else.
func (i *issuers) take(ctx context.Context, token string) (Caller, error) {
	if strings.Count(token, ".") != 2 {
		return Caller{}, errNotOurs
	}
	unverified, err := jwt.ParseSigned(token, algorithms())
	if err != nil {
		return Caller{}, errNotOurs
	}
	var said jwt.Claims
	if unverified.UnsafeClaimsWithoutVerification(&said) != nil {
		return Caller{}, errNotOurs
	}
	if i.byURL[said.Issuer] == nil { // whose it is decides only who is asked
		return Caller{}, fmt.Errorf("%w, nor of an issuer of ours: %q", errNotOurs, said.Issuer)
	}
	return i.byURL[said.Issuer].verify(ctx, token, i.now)
}

func algorithms() (all []jose.SignatureAlgorithm) {
	for _, a := range signedBy {
		all = append(all, jose.SignatureAlgorithm(a))
	}
	return all
}

func (i *tokenIssuer) verify(ctx context.Context, token string, now func() time.Time) (Caller, error) {
	keys, err := i.ready(now)
	if err != nil {
		return Caller{}, fmt.Errorf("%w: %s: %w", errIssuerSilent, i.options.URL, err)
	}
	noted := &noting{KeySet: keys}
	verifier := oidc.NewVerifier(i.options.URL, noted, &oidc.Config{ClientID: i.options.Audience, SupportedSigningAlgs: signedBy, Now: now})
	verified, err := verifier.Verify(ctx, token)
	if noted.err != nil {
		err = noted.err
	}
	if err != nil {
		return Caller{}, fmt.Errorf("the token is not good: %w", err)
	}
	var said map[string]any
	if err := verified.Claims(&said); err != nil {
		return Caller{}, fmt.Errorf("the token's claims cannot be read: %w", err)
	}
	return i.caller(said, verified.Expiry)
}

// noting keeps the error of a key set, of which the verifier gives the text alone.
type noting struct {
	oidc.KeySet
	err error
}

func (n *noting) VerifySignature(ctx context.Context, token string) (payload []byte, err error) {
	payload, n.err = n.KeySet.VerifySignature(ctx, token)
	return payload, n.err
}

// caller is who a verified token is about.
func (i *tokenIssuer) caller(said map[string]any, until time.Time) (Caller, error) {
	name, _ := said[i.options.UsernameClaim].(string)
	switch {
	case name == "":
		return Caller{}, fmt.Errorf("the token has no claim %q, which is to name its bearer", i.options.UsernameClaim)
	case len(name) > maxName:
		return Caller{}, fmt.Errorf("the token's claim %q is longer than %d bytes", i.options.UsernameClaim, maxName)
	case i.options.UsernameClaim == "email" && (said["email_verified"] == false || said["email_verified"] == "false"):
		return Caller{}, errors.New("the issuer says that the bearer's email is not verified") // it may be anybody's
	}
	groups := texts(said[i.options.GroupsClaim])
	for n := range groups {
		groups[n] = i.options.Prefix + groups[n]
	}
	return Caller{Name: kindOIDC + ":" + i.options.Prefix + name, Groups: groups, until: until}, nil
}

// ready asks the issuer for its discovery document, once: it says where the
// keys are.
func (i *tokenIssuer) ready(now func() time.Time) (oidc.KeySet, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.keys != nil {
		return i.keys, nil
	}
	if i.why != nil && now().Sub(i.failed) < issuerAgain {
		return nil, i.why
	}
	at, err := i.discover()
	if err != nil {
		i.failed, i.why = now(), err
		return nil, err
	}
	i.keys = &issuerKeys{url: at, client: i.client, now: now}
	return i.keys, nil
}

// discover finds out where the issuer's keys are.
func (i *tokenIssuer) discover() (string, error) {
	// Not the caller's context: others wait for the same answer.
	provider, err := oidc.NewProvider(oidc.ClientContext(context.Background(), i.client), i.options.URL)
	if err != nil {
		return "", err
	}
	var document struct {
		Keys string `json:"jwks_uri"`
	}
	if err := provider.Claims(&document); err != nil {
		return "", err
	}
	if strings.HasPrefix(i.options.URL, "https://") && !strings.HasPrefix(document.Keys, "https://") {
		return "", fmt.Errorf("its keys are at %q, and not behind https as it is itself", document.Keys)
	}
	return document.Keys, nil
}

// texts are the strings of a claim: a list, or one alone.
func texts(claim any) (all []string) {
	switch said := claim.(type) {
	case string:
		return []string{said}
	case []any:
		for _, v := range said {
			if s, ok := v.(string); ok {
				all = append(all, s)
			}
		}
	}
	return all
}

package registry

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/singleflight"
)

const (
	// defaultTokenLife is what the token spec gives to a token that does not
	// say how long it lives.
	defaultTokenLife = 60 * time.Second
	// maxTokenLife is the longest that a right taken away upstream can outlive
	// that here; a token's own claim may be longer.
	maxTokenLife = time.Hour
	// renewBefore is how long before its end a token is not used any more, so
	// that it does not end on its way; a quarter of its life when that is less.
	renewBefore = 10 * time.Second
	// refusalLife is how long a refused credential is not shown again:
	// a login on every pull locks accounts.
	refusalLife = 5 * time.Second
	// maxTokens bounds the cache; there is one for each repository in use.
	maxTokens = 4096
)

// tokens holds the tokens of one upstream. One flight fetches a token for
// all who need it.
type tokens struct {
	base      *url.URL
	hosts     []string // of token services that the operator vouches for
	inner     http.RoundTripper
	fresh     http.RoundTripper // with a connection for each request
	userAgent string
	now       func() time.Time
	pulse     *pulse
	most      int // tokens that are kept
	flights   singleflight.Group

	mu   sync.Mutex // guards what follows
	kept map[tokenKey]token
	// renewed is the refresh token that a service gave in place of one of ours.
	renewed map[tokenKey]string
}

// tokenKey is a digest of credential, realm, service and scope.
type tokenKey [sha256.Size]byte

// token is an answer of a token service: a token, or that it gives none.
type token struct {
	authorization string
	refused       *Error
	until         time.Time
}

func newTokens(u *upstream) *tokens {
	return &tokens{base: u.base, hosts: u.options.TokenHosts, inner: u.network, fresh: u.fresh, userAgent: u.env.userAgent, now: u.env.now,
		pulse: newPulse(u.env.life, u.env.patience, nil), most: maxTokens, kept: map[tokenKey]token{}, renewed: map[tokenKey]string{}}
}

// pass returns a token for the scope, from memory when there is one.
func (t *tokens) pass(ctx context.Context, c challenge, scope string, login authn.AuthConfig) (pass, error) {
	service, refusal := judgeRealm(t.base, c.realm, t.hosts)
	if refusal != nil {
		return pass{}, refusal
	}
	withheld := !service.trusted && login != (authn.AuthConfig{})
	if !service.trusted {
		login = authn.AuthConfig{}
	}
	key, err := keyOf(login, service.url.String(), c.service, scope)
	if err != nil {
		return pass{}, err
	}
	got, ok := t.lookup(key)
	if !ok {
		got, err = together(ctx, &t.flights, string(key[:]), func(ctx context.Context) (token, error) {
			if got, ok := t.lookup(key); ok {
				return got, nil // a flight ended between our look and our take-off
			}
			anything := func(ctx context.Context) error { return knock(ctx, t.fresh, service.url, t.userAgent) }
			got, err := awake(ctx, t.pulse, anything, func(ctx context.Context) (token, error) {
				return t.fetch(ctx, service, c.service, scope, login)
			})
			if err == nil {
				t.keep(key, got)
			}
			return got, err
		})
		err = silence(ctx, err, "upstream's token service "+service.url.Host)
	}
	switch {
	case err != nil:
		return pass{}, err
	case got.refused != nil && withheld:
		refused := *got.refused
		refused.Message += fmt.Sprintf("; upstream's token service is on another host (%s), which is not shown the credential unless token_hosts names it", service.url.Host)
		return pass{}, &refused
	case got.refused != nil:
		return pass{}, got.refused
	}
	return pass{authorization: got.authorization, login: login, fresh: !ok}, nil
}

func keyOf(login authn.AuthConfig, rest ...string) (tokenKey, error) {
	encoded, err := json.Marshal(append(rest, login.Username, login.Password, login.Auth, login.IdentityToken))
	if err != nil {
		return tokenKey{}, &Error{Code: CodeUnavailable, Message: "the token cannot be looked up", Err: err}
	}
	return sha256.Sum256(encoded), nil
}

func (t *tokens) lookup(key tokenKey) (token, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	got, ok := t.kept[key]
	return got, ok && t.now().Before(got.until)
}

func (t *tokens) keep(key tokenKey, got token) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.kept) >= t.most {
		now := t.now()
		for k, old := range t.kept {
			if !now.Before(old.until) {
				delete(t.kept, k)
			}
		}
	}
	if len(t.kept) >= t.most {
		clear(t.kept)
	}
	t.kept[key] = got
}

// forget drops a token that upstream refused, unless another has taken its
// place already.
func (t *tokens) forget(authorization string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, got := range t.kept {
		if got.refused == nil && got.authorization == authorization {
			delete(t.kept, key)
		}
	}
}

// fetch asks the token service. That it refuses is an answer and worth
// remembering; that it fails is an error.
func (t *tokens) fetch(ctx context.Context, service realm, audience, scope string, login authn.AuthConfig) (token, error) {
	var options []name.Option
	if service.url.Scheme == "http" {
		options = append(options, name.Insecure)
	}
	// Exchange refuses realms at private addresses other than the registry it
	// is handed. Which realms are right was decided before, so it gets the realm's host.
	host, err := name.NewRegistry(service.url.Host, options...)
	if err != nil {
		return token{}, &Error{Code: CodeUnauthorized, Message: "upstream names a token service whose address cannot be read"}
	}
	renewal, err := keyOf(login, "refresh", service.url.String(), audience)
	if err != nil {
		return token{}, err
	}
	login.IdentityToken = t.refreshToken(renewal, login.IdentityToken)
	auth := authn.Anonymous
	if login != (authn.AuthConfig{}) {
		auth = authn.FromConfig(login)
	}
	asked := &transport.Challenge{Scheme: "bearer", Insecure: service.url.Scheme == "http",
		Parameters: map[string]string{"realm": service.url.String(), "service": audience}}
	line := &tokenLine{t: t, service: service.url}
	begun := t.now()
	got, err := transport.Exchange(ctx, host, auth, line, []string{scope}, asked)
	if err != nil {
		failure := t.failure(err, line, service, login)
		if failure.refuses() {
			t.forgetRefresh(renewal)
			return token{refused: failure, until: t.now().Add(refusalLife)}, nil
		}
		return token{}, failure
	}
	t.noteRefresh(renewal, login.IdentityToken, got.RefreshToken)
	value := got.Token
	if value == "" {
		value = got.AccessToken
	}
	return token{authorization: "Bearer " + value, until: begun.Add(tokenLife(got.ExpiresIn))}, nil
}

// refreshToken is the one to show in place of ours, which some services take
// once only (RFC 6749 section 6).
func (t *tokens) refreshToken(key tokenKey, ours string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if renewed := t.renewed[key]; renewed != "" {
		return renewed
	}
	return ours
}

// noteRefresh remembers the refresh token that came in place of the one shown.
func (t *tokens) noteRefresh(key tokenKey, shown, got string) {
	if shown == "" || got == "" || got == shown {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.renewed) >= t.most {
		clear(t.renewed)
	}
	t.renewed[key] = got
}

// forgetRefresh goes back to the refresh token that is ours.
func (t *tokens) forgetRefresh(key tokenKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.renewed, key)
}

// tokenLife is how long a token is used that lives for so many seconds.
func tokenLife(seconds int) time.Duration {
	life := defaultTokenLife
	if seconds > 0 {
		life = time.Duration(min(seconds, int(maxTokenLife/time.Second))) * time.Second
	}
	return life - min(renewBefore, life/4)
}

// failure tells why there is no token. The text of err is not kept: it may
// hold the service's whole answer.
func (t *tokens) failure(err error, line *tokenLine, service realm, login authn.AuthConfig) *Error {
	where := "upstream's token service " + service.url.Host
	var answered *transport.Error
	var broken *url.Error
	switch {
	case errors.As(err, &answered):
		e := statusError(subjectManifest, answered.StatusCode, false, "")
		e.Message = where + " answered " + statusText(answered.StatusCode)
		switch {
		case e.Code == CodeTooMany:
			e.RetryAfter = retryAfter(line.header, t.now())
		case e.Code == CodeManifestUnknown:
			e.Code, e.final = CodeUnavailable, true
		case e.Code == CodeUnauthorized && login == (authn.AuthConfig{}):
			e.Message = where + " gives no token without a credential"
		case e.Code == CodeUnauthorized:
			e.Message = where + " refused the credential"
		}
		return e
	case errors.As(err, &broken), errors.Is(err, context.DeadlineExceeded):
		e := networkError(err)
		e.Message = where + ": " + e.Message
		return e
	}
	return &Error{Code: CodeUnavailable, Message: where + " gave an answer that is no token"}
}

// tokenLine keeps an exchange to the one host that was decided on: a
// redirect would carry the form with a refresh token along.
type tokenLine struct {
	t       *tokens
	service *url.URL
	header  http.Header // of the last answer
}

func (l *tokenLine) RoundTrip(req *http.Request) (*http.Response, error) {
	if !sameOrigin(req.URL, l.service) {
		return nil, &Error{Code: CodeUnavailable, Message: "redirects to another host, which is refused", final: true}
	}
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", l.t.userAgent)
	res, err := l.t.inner.RoundTrip(req)
	if err == nil {
		l.header = res.Header
	}
	return res, err
}

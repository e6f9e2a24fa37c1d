package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"golang.org/x/sync/singleflight"
)

// clientGrant gets tokens as a client of an OAuth2 service (RFC 6749 section
// 4.4), one for all who need it, and the next one before it ends.
type clientGrant struct {
	login     Login
	secret    *passwordFile // the client's
	inner     http.RoundTripper
	userAgent string
	now       func() time.Time
	flights   singleflight.Group

	mu    sync.Mutex // guards what follows
	last  authn.AuthConfig
	got   time.Time
	until time.Time
}

func newClientGrant(l Login, caFile string, env upstreamEnv) (*clientGrant, error) {
	at, err := url.Parse(l.TokenURL)
	switch {
	case err != nil || at.Hostname() == "" || at.User != nil:
		return nil, errors.New("token_url is not the address of a token service: want https://host/path")
	case at.Scheme != "https" && !(at.Scheme == "http" && isLoopback(at.Hostname())):
		return nil, errors.New("token_url is not https, and the client's secret goes there")
	}
	network, err := newNetwork(at, caFile, env)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(env.life, network.CloseIdleConnections)
	g := &clientGrant{login: l, inner: network, userAgent: env.userAgent, now: env.now,
		secret: &passwordFile{username: l.ClientID, path: l.ClientSecretFile}}
	if _, err := g.secret.credential(context.Background(), true); err != nil {
		return nil, fmt.Errorf("client_secret_file: %w", errors.Unwrap(err))
	}
	return g, nil
}

// credential implements [credentialSource]. A token that upstream refuses is got
// anew, unless it is of just now: then the trouble is another.
func (g *clientGrant) credential(ctx context.Context, renew bool) (authn.AuthConfig, error) {
	if login, ok := g.known(renew); ok {
		return login, nil
	}
	return together(ctx, &g.flights, "", func(ctx context.Context) (authn.AuthConfig, error) {
		if login, ok := g.known(renew); ok {
			return login, nil // a flight ended between our look and our take-off
		}
		return g.fetch(ctx)
	})
}

// known is the token that is good enough.
func (g *clientGrant) known(renew bool) (authn.AuthConfig, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	return g.last, now.Before(g.until) && (!renew || now.Sub(g.got) < refusalLife)
}

func (g *clientGrant) fetch(ctx context.Context) (authn.AuthConfig, error) {
	begun := g.now()
	token, life, err := g.exchange(ctx)
	if err != nil {
		return authn.AuthConfig{}, err
	}
	login := authn.AuthConfig{RegistryToken: token}
	if g.login.Username != "" {
		login = authn.AuthConfig{Username: g.login.Username, Password: token}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last, g.got, g.until = login, begun, begun.Add(tokenLife(life))
	return login, nil
}

// exchange shows the client's secret to the token service.
func (g *clientGrant) exchange(ctx context.Context) (token string, life int, err error) {
	client, err := g.secret.credential(ctx, false)
	if err != nil {
		return "", 0, err
	}
	form := url.Values{"grant_type": {"client_credentials"}}
	if g.login.Scope != "" {
		form.Set("scope", g.login.Scope)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.login.TokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		return "", 0, g.failed("its address cannot be read", CodeUnauthorized)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", g.userAgent)
	// Encoded as section 2.3.1 has it.
	req.SetBasicAuth(url.QueryEscape(client.Username), url.QueryEscape(client.Password))
	res, err := g.inner.RoundTrip(req) // which follows no redirect with the secret
	if err != nil {
		e := networkError(err)
		e.Message = g.where() + ": " + e.Message
		return "", 0, e
	}
	defer res.Body.Close()
	return g.read(res)
}

func (g *clientGrant) read(res *http.Response) (token string, life int, err error) {
	body, err := io.ReadAll(io.LimitReader(res.Body, maxSecret))
	if err != nil {
		return "", 0, g.failed("it broke off its answer", CodeUnavailable)
	}
	if res.StatusCode != http.StatusOK {
		e := statusError(subjectManifest, res.StatusCode, false, "")
		e.Message = g.where() + " answered " + statusText(res.StatusCode)
		e.RetryAfter = retryAfter(res.Header, g.now())
		if res.StatusCode == http.StatusBadRequest || e.Code == CodeManifestUnknown { // section 5.2: invalid_client and the like
			e.Code = CodeUnauthorized
		}
		return "", 0, e
	}
	var got struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
	}
	if json.Unmarshal(body, &got) != nil || got.AccessToken == "" {
		return "", 0, g.failed("its answer is no token", CodeUnavailable)
	}
	return got.AccessToken, got.ExpiresIn, nil
}

func (g *clientGrant) where() string {
	at, err := url.Parse(g.login.TokenURL)
	if err != nil {
		return "token_url"
	}
	return "the token service " + at.Host
}

func (g *clientGrant) failed(why string, code Code) *Error {
	return &Error{Code: code, Message: g.where() + ": " + why}
}

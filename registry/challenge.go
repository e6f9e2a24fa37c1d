package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/singleflight"
)

// challenge is how an upstream wants its callers to sign in (RFC 9110 section
// 11.6.1, and the token spec of the distribution project). The zero
// challenge is that of an upstream which lets everybody in.
type challenge struct {
	scheme, realm, service string // scheme in lower case
}

// challengeOf reads the challenge of a 401, zero without one.
func challengeOf(h http.Header) challenge {
	nowhere, err := name.NewRegistry("registry.invalid")
	if err != nil {
		return challenge{}
	}
	// transport knows how to read the header, but only from an answer that it got itself.
	read, err := transport.Ping(context.Background(), nowhere, saidBefore(h))
	if err != nil {
		return challenge{}
	}
	return challengeFrom(read)
}

func challengeFrom(c *transport.Challenge) challenge {
	return challenge{scheme: strings.ToLower(c.Scheme), realm: c.Parameters["realm"], service: c.Parameters["service"]}
}

// saidBefore answers every request with a 401 of this header.
type saidBefore http.Header

func (h saidBefore) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header(h), Request: req,
		Body: io.NopCloser(bytes.NewReader(nil))}, nil
}

// challenges remembers what an upstream asks for. It is asked once; later a
// 401 that says something else is believed.
type challenges struct {
	base      *url.URL
	inner     http.RoundTripper
	fresh     http.RoundTripper // with a connection for each request
	userAgent string
	pulse     *pulse
	flights   singleflight.Group

	mu      sync.Mutex // guards what follows
	asked   bool
	current challenge
}

func newChallenges(u *upstream) *challenges {
	return &challenges{base: u.base, inner: u.network, fresh: u.fresh, userAgent: u.env.userAgent, pulse: newPulse(u.env.life, u.env.patience, nil)}
}

// remembered returns the challenge, and whether upstream was asked for it.
func (c *challenges) remembered() (challenge, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current, c.asked
}

// ask asks upstream for the challenge, once for all who ask at one time.
func (c *challenges) ask(ctx context.Context) (challenge, error) {
	return together(ctx, &c.flights, "", func(ctx context.Context) (challenge, error) {
		anything := func(ctx context.Context) error { return knock(ctx, c.fresh, c.base.JoinPath("/v2/"), c.userAgent) }
		return awake(ctx, c.pulse, anything, c.ping)
	})
}

func (c *challenges) learn(now challenge) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked, c.current = true, now
}

// ping asks /v2/. Only a network that fails is an error: any other odd answer
// is taken as "no challenge", and the 401 of the real request will tell.
func (c *challenges) ping(ctx context.Context) (challenge, error) {
	var options []name.Option
	if c.base.Scheme == "http" {
		options = append(options, name.Insecure)
	}
	registry, err := name.NewRegistry(c.base.Host, options...)
	if err != nil {
		return challenge{}, nil
	}
	line := &pingLine{c: c}
	read, err := transport.Ping(ctx, registry, line)
	switch {
	case err == nil:
		got := challengeFrom(read)
		c.learn(got)
		return got, nil
	case line.failure != nil:
		return challenge{}, line.failure
	case line.status < http.StatusInternalServerError && line.status != http.StatusTooManyRequests:
		c.learn(challenge{})
	}
	return challenge{}, nil
}

var errElsewhere = errors.New("not the upstream itself")

// pingLine keeps transport.Ping to the upstream: it would try https before
// http, and follow redirects anywhere.
type pingLine struct {
	c       *challenges
	failure error // of the network
	status  int
}

func (l *pingLine) RoundTrip(req *http.Request) (*http.Response, error) {
	if !sameOrigin(req.URL, l.c.base) {
		return nil, errElsewhere
	}
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", l.c.userAgent)
	res, err := l.c.inner.RoundTrip(req)
	if err != nil {
		l.failure = err
		return nil, err
	}
	l.status = res.StatusCode
	if res.StatusCode >= 300 && res.StatusCode < 400 {
		res.Body.Close()
		return nil, errElsewhere
	}
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(res.Body, maxComplaint), res.Body}
	return res, nil
}

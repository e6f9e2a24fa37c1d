package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
)

const (
	defaultTagTTL = time.Minute
	// maxRedirects is more than any registry's way to its storage needs.
	maxRedirects = 5
	// maxComplaint is how much of an error body is read, in bytes: enough for
	// a sentence, and for the connection to be used again.
	maxComplaint = 8 << 10
)

// upstreamEnv is what all upstreams of a process have in common. The zero
// value of each field is its default.
type upstreamEnv struct {
	userAgent string
	log       *slog.Logger
	now       func() time.Time
	random    func() float64 // [0, 1), for jitter

	dialTimeout   time.Duration // default 3 s
	tlsTimeout    time.Duration // default 5 s
	headerTimeout time.Duration // from the end of a request to the head of its answer; default 30 s
	patience      time.Duration // how long one who has another to ask, or another answer, waits; default 1 s
	dial          dialFunc      // default: the network

	// configured finds the options of the registry at a host, whose login is
	// also that of a mirror there; may be nil.
	configured func(host string) (UpstreamOptions, bool)
	// life ends when the upstream is closed; it is set when one is made.
	life context.Context
}

func (e upstreamEnv) withDefaults() upstreamEnv {
	if e.userAgent == "" {
		e.userAgent = "imagecache"
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if e.now == nil {
		e.now = time.Now
	}
	if e.random == nil {
		e.random = rand.Float64
	}
	e.dialTimeout = orElse(e.dialTimeout, 3*time.Second)
	e.tlsTimeout = orElse(e.tlsTimeout, 5*time.Second)
	e.headerTimeout = orElse(e.headerTimeout, 30*time.Second)
	e.patience = orElse(e.patience, defaultStaleWait)
	if e.life == nil {
		e.life = context.Background()
	}
	return e
}

func orElse(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// upstream speaks to one registry: how to reach it, how to be let in, and how
// to leave it alone when it fails. It keeps nothing of what it got. Its
// methods may be called in parallel; their errors are *[Error], except for
// the error of a caller's cancelled context.
type upstream struct {
	name    string
	options UpstreamOptions // with defaults
	env     upstreamEnv
	base    *url.URL
	client  *http.Client // signs in, follows redirects by our rules
	sender  *http.Client // the same for what changes something: it waits longer for the answer
	prober  *http.Client // signs in, by connections of its own
	network *http.Transport
	fresh   *http.Transport // the same, with a connection of its own for each request
	patient *http.Transport // the same, which waits longer for the answer
	die     context.CancelFunc
	tally   *tally
	outage  *outage
	limit   *limit
	pulse   *pulse
	auth    *authTransport
	bodies  chan struct{} // a token for each body of a blob that is being sent
	shares  chan struct{} // a token for each request for a part of a blob
	freed   chan struct{} // one token when a place in bodies was given back; for who reads ahead
	bare    *upstream     // the same without a credential; itself in the bare one
	// forCallers: it asks with what a caller has shown, or with nothing. To be
	// refused is then no failure, and its allowance not the one to tell of.
	forCallers bool
	home       *home // not nil: there is nobody to ask, see home.go

	mirrors  []*upstream // asked for bytes before it, in this order
	mirrorOf *mirroring  // not nil: it is a mirror, and of whom
}

// newUpstream checks the options and reads the files they name. It needs no
// network.
func newUpstream(o UpstreamOptions, env upstreamEnv) (*upstream, error) {
	env = env.withDefaults()
	o.Name = canonicalRegistry(o.Name)
	base, err := parseBase(o)
	if err != nil {
		return nil, fmt.Errorf("upstream %q: %w", o.Name, err)
	}
	if o.TagTTL == 0 {
		o.TagTTL = defaultTagTTL
	}
	o.GrantTTL = orElse(o.GrantTTL, defaultGrantTTL)
	o.GrantGrace = orElse(o.GrantGrace, defaultGrantGrace)
	u, err := newUpstreamAt(base, o, env)
	if err != nil {
		return nil, fmt.Errorf("upstream %q: %w", o.Name, err)
	}
	if err := u.addMirrors(env); err != nil {
		u.close()
		return nil, fmt.Errorf("upstream %q: %w", o.Name, err)
	}
	return u, nil
}

// newUpstreamAt makes an upstream, or a mirror of one, that has no mirrors yet.
func newUpstreamAt(base *url.URL, o UpstreamOptions, env upstreamEnv) (*upstream, error) {
	o.URL = base.String()
	network, err := newNetwork(base, o.CAFile, env)
	if err != nil {
		return nil, err
	}
	keys, err := newCredentials(o, base, env)
	if err != nil {
		return nil, err
	}
	life, die := context.WithCancel(context.Background())
	env.life = life
	u := &upstream{name: o.Name, options: o, env: env, base: base, network: network, fresh: afresh(network), patient: patiently(network), die: die,
		shares: make(chan struct{}, sharesMost),
		bodies: make(chan struct{}, maxBodies),
		freed:  make(chan struct{}, 1),
		tally:  &tally{}, outage: &outage{now: env.now, random: env.random}, limit: &limit{now: env.now}}
	u.pulse = newPulse(life, env.patience, u.outage.over)
	challenges := newChallenges(u)
	tokens := newTokens(u)
	bare := *u
	u.bare, bare.bare = &bare, &bare
	bare.forCallers = true
	u.signIn(challenges, tokens, keys)
	bare.signIn(challenges, tokens, nobody{})
	return u, nil
}

// signIn finishes an upstream: all it does is done with keys' credential.
func (u *upstream) signIn(c *challenges, t *tokens, keys credentialSource) {
	u.auth = &authTransport{base: u.base, inner: u.network, userAgent: u.env.userAgent, challenges: c, tokens: t, keys: keys}
	u.client = &http.Client{Transport: u.auth, CheckRedirect: redirects{base: u.base}.check}
	sending := &authTransport{base: u.base, inner: u.patient, userAgent: u.env.userAgent, challenges: c, tokens: t, keys: keys}
	u.sender = &http.Client{Transport: sending, CheckRedirect: redirects{base: u.base}.check}
	probing := &authTransport{base: u.base, inner: u.fresh, userAgent: u.env.userAgent, challenges: c, tokens: t, keys: keys}
	u.prober = &http.Client{Transport: probing, CheckRedirect: nowhere}
}

// anonymous returns the upstream as one without a credential sees it. It
// shares everything but the credential.
func (u *upstream) anonymous() *upstream { return u.bare }

// close ends idle connections and probes. What is being read goes on.
func (u *upstream) close() {
	if u.home != nil {
		return
	}
	u.die()
	u.pulse.wait()
	u.network.CloseIdleConnections()
	u.patient.CloseIdleConnections()
	for _, m := range u.mirrors {
		m.close()
	}
}

func parseBase(o UpstreamOptions) (*url.URL, error) {
	if !isRegistryName(o.Name) {
		return nil, errors.New("not the name of a registry: a host with a dot, with a port, or localhost")
	}
	address := o.URL
	if address == "" {
		address = "https://" + o.Name
	}
	base, path, err := parseAddress(address)
	if err == nil && path != "" {
		err = fmt.Errorf("the url %q has more than a scheme, a host and a port", address)
	}
	return base, err
}

// parseAddress reads where a registry is. path is what stands behind the host,
// without the slashes around it.
func parseAddress(address string) (base *url.URL, path string, err error) {
	read, err := url.Parse(address)
	switch {
	case err != nil:
		// The text of err holds the address, perhaps with a password.
		return nil, "", errors.New("the url cannot be read")
	case read.User != nil:
		return nil, "", errors.New("the url holds a user; use username and password_file")
	case read.Scheme != "http" && read.Scheme != "https":
		return nil, "", fmt.Errorf("the url %q begins with neither http:// nor https://", address)
	case read.Hostname() == "":
		return nil, "", fmt.Errorf("the url %q has no host", address)
	case read.RawQuery != "" || read.Fragment != "" || read.ForceQuery:
		return nil, "", fmt.Errorf("the url %q has more than a scheme, a host and a port", address)
	}
	return &url.URL{Scheme: read.Scheme, Host: strings.ToLower(read.Host)}, strings.Trim(read.Path, "/"), nil
}

// question is one request to the upstream.
type question struct {
	subject subject
	method  string
	path    string // repository
	rest    string // after the repository: "manifests/latest"
	query   string
	header  http.Header
	accept  func(status int) bool // the statuses that are answers; nil: 200
}

func (q question) accepted(status int) bool {
	if q.accept == nil {
		return status == http.StatusOK
	}
	return q.accept(status)
}

// answer is what upstream answered; who got it closes the body.
type answer struct {
	*http.Response
	anonymous bool // no credential had a part in it
}

// ask sends a question and returns its answer with one of the statuses it
// accepts. Anything else becomes an error, is counted, and is remembered for
// the rest that upstream is given. A question that upstream leaves hanging is
// asked anew when upstream answers others again.
func (u *upstream) ask(ctx context.Context, q question) (answer, error) {
	begun := u.env.now()
	way := u.wayTo(q)
	res, err := awake(withWay(ctx, way), u.pulse,
		func(ctx context.Context) error { return u.probe(ctx, q) },
		func(ctx context.Context) (*http.Response, error) { return u.send(ctx, u.client, q) })
	if way.credential && !u.forCallers {
		u.tally.credential.Store(true)
	}
	if err != nil {
		return answer{}, u.failed(ctx, q.subject, networkError(err))
	}
	u.noteAllowance(way.credential, res.Header)
	if q.accepted(res.StatusCode) {
		u.outage.over()
		u.limit.passed(q.subject, begun)
		return answer{Response: res, anonymous: !way.credential}, nil
	}
	return answer{}, u.failed(ctx, q.subject, u.refusal(q.subject, res))
}

// wayTo is how a question signs in. A mirror has its images under names of its own.
func (u *upstream) wayTo(q question) *way {
	path := u.mirrorOf.path(q.path)
	return &way{repository: path, scope: "repository:" + path + ":pull"}
}

// send sends a question by a client of the upstream's.
func (u *upstream) send(ctx context.Context, by *http.Client, q question) (*http.Response, error) {
	target := url.URL{Scheme: u.base.Scheme, Host: u.base.Host, Path: "/v2/" + u.mirrorOf.path(q.path) + "/" + q.rest,
		RawQuery: u.mirrorOf.query(q.query)}
	req, err := http.NewRequestWithContext(ctx, q.method, target.String(), nil)
	if err != nil {
		return nil, &Error{Code: CodeNameInvalid, Message: "upstream cannot be asked for this", Err: withoutAddress(err), final: true}
	}
	for name, values := range q.header {
		req.Header[name] = values
	}
	u.tally.requests.Add(1)
	return by.Do(req)
}

// refusal reads what upstream has to say about a status that is no answer.
func (u *upstream) refusal(s subject, res *http.Response) *Error {
	said := withoutSecret(complaint(res), res.Request)
	foreign := !sameOrigin(res.Request.URL, u.base)
	e := statusError(s, res.StatusCode, foreign, said)
	e.RetryAfter = retryAfter(res.Header, u.env.now())
	return e
}

// failed books a failure and returns the error for the caller.
func (u *upstream) failed(ctx context.Context, s subject, e *Error) error {
	if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ctx.Err() // the caller left; upstream did nothing wrong
	}
	switch e.Code {
	case CodeTooMany:
		e.RetryAfter = orElse(e.RetryAfter, defaultLimit)
		u.limit.reached(s, e)
	case CodeUnavailable, CodeTimeout:
		if !e.final {
			u.outage.failed(e)
		}
	default:
		u.outage.over() // it answered
	}
	if !u.forCallers || !e.refuses() {
		u.tally.failed(e, u.env.now())
	}
	return e
}

// resting reports whether upstream is being left alone, until when, and after
// which error. A rate limit comes before a failure.
func (u *upstream) resting() (until time.Time, why *Error, ok bool) {
	if until, why, ok = u.limit.resting(); ok {
		return until, why, true
	}
	if until, why, ok = u.outage.resting(); ok {
		return until, why, true
	}
	if why := u.pulse.silence(); why != nil {
		return u.env.now().Add(why.RetryAfter), why, true
	}
	return time.Time{}, nil, false
}

// isResting is resting for those who need no more.
func (u *upstream) isResting() bool {
	_, _, resting := u.resting()
	return resting
}

// complaint drains and closes an error answer and returns its first message,
// made fit for a log.
func complaint(res *http.Response) string {
	_, message := coded(res)
	return message
}

// coded is complaint with the code.
func coded(res *http.Response) (code, message string) {
	body, _ := io.ReadAll(io.LimitReader(res.Body, maxComplaint))
	res.Body.Close()
	var said struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(body, &said) != nil || len(said.Errors) == 0 {
		return "", ""
	}
	return said.Errors[0].Code, plain(said.Errors[0].Message)
}

// plain makes a text of others fit for a log: one line, printable, short.
func plain(s string) string {
	const enough = 200 // runes
	runes := []rune(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s))
	if len(runes) > enough {
		runes = append(runes[:enough], '…')
	}
	return strings.Join(strings.Fields(string(runes)), " ")
}

// tally counts what became of the requests to one upstream.
type tally struct {
	requests, failures atomic.Int64
	credential         atomic.Bool // some request went out with a credential

	// What upstream says of the rate limit for our credential, and of the one
	// for whoever comes from here without any.
	ours, anybodys allowance

	mu     sync.Mutex // guards what follows
	last   string
	lastAt time.Time
}

func (t *tally) failed(e *Error, now time.Time) {
	switch e.Code {
	case CodeManifestUnknown, CodeBlobUnknown, CodeNameUnknown:
		return // an answer, not a failure
	}
	if e.Answered != 0 {
		return // the client's failure
	}
	t.failures.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last, t.lastAt = e.Error(), now
}

// States of an upstream in its status.
const (
	StateOK         = "ok"
	StateBackingOff = "backing off"
	StateUnknown    = "unknown" // not asked since the start
	StateHome       = "home"    // images are pushed to it; there is nobody to ask
)

// UpstreamStatus tells how an upstream has been doing since the start.
type UpstreamStatus struct {
	Name          string    `json:"name"`
	URL           string    `json:"url"`
	State         string    `json:"state"`
	LastError     string    `json:"last_error,omitempty"`
	LastErrorAt   time.Time `json:"last_error_at,omitzero"`
	BackoffUntil  time.Time `json:"backoff_until,omitzero"`
	Requests      int64     `json:"requests"`
	Failures      int64     `json:"failures"`
	Authenticated bool      `json:"authenticated"` // a credential is configured, or was found and used
	// Allowance is absent where upstream said nothing of a rate limit.
	Allowance *Allowance `json:"allowance,omitempty"`
	// Mirrors are asked before it, in this order. The Name of one is its host.
	Mirrors []UpstreamStatus `json:"mirrors,omitempty"`
}

func (u *upstream) status() UpstreamStatus {
	if u.home != nil {
		return UpstreamStatus{Name: u.name, State: StateHome}
	}
	s := UpstreamStatus{Name: u.name, URL: u.base.String() + u.mirrorOf.suffix(), State: StateUnknown,
		Requests: u.tally.requests.Load(), Failures: u.tally.failures.Load(),
		Authenticated: u.tally.credential.Load() || u.options.hasLogin()}
	if s.Requests > 0 {
		s.State = StateOK
	}
	if until, _, resting := u.resting(); resting {
		s.State, s.BackoffUntil = StateBackingOff, until
	}
	s.Allowance = u.toldAllowance()
	for _, m := range u.mirrors {
		s.Mirrors = append(s.Mirrors, m.status())
	}
	u.tally.mu.Lock()
	defer u.tally.mu.Unlock()
	s.LastError, s.LastErrorAt = u.tally.last, u.tally.lastAt
	return s
}

package access

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

// Options of a Gate. The zero value is one that lets everybody in, as nobody
// in particular.
type Options struct {
	HtpasswdFile string
	Issuers      []IssuerOptions
	// Certificates takes verified client certificates for callers.
	Certificates bool
	Rules        Rules
	// TokenURL is where clients get tokens, if not at the address by which they
	// reach us: behind a proxy.
	TokenURL string
	// Rate and AtOnce limit the requests of one caller, a second and at once;
	// 0: they do not.
	Rate, AtOnce int
	Now          func() time.Time // default: time.Now
	// Log gets what an operator should know; default: discarded.
	Log *slog.Logger
}

// Gate finds out who asks, and says what they may. All methods may be called
// in parallel.
type Gate struct {
	options  Options
	htpasswd *htpasswd // nil: no file
	issuers  *issuers
	tokens   *tokens
	guesses  *guesses
	turns    *turns
	limits   *limits
}

// New checks the options and reads the files they name. It needs no network.
func New(o Options) (*Gate, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := o.Rules.Check(); err != nil {
		return nil, err
	}
	g := &Gate{options: o, guesses: newGuesses(o.Now), turns: newTurns()}
	var err error
	if g.limits, err = newLimits(o.Rate, o.AtOnce, o.Now); err != nil {
		return nil, err
	}
	if g.tokens, err = newTokens(o.Now); err != nil {
		return nil, err
	}
	if g.issuers, err = newIssuers(o.Issuers, o.Now, o.Log); err != nil {
		return nil, err
	}
	if o.HtpasswdFile != "" {
		g.htpasswd, err = openHtpasswd(o.HtpasswdFile, o.Now, o.Log)
	}
	return g, err
}

// Ruled reports whether there are rules, so that what none allows is refused.
func (g *Gate) Ruled() bool { return len(g.options.Rules) > 0 }

// SignsIn reports whether callers sign in with us, so that the credentials they
// send are for us and not for an upstream.
func (g *Gate) SignsIn() bool { return g.htpasswd != nil || len(g.options.Issuers) > 0 }

// Allow reports whether a caller may do something in a repository.
func (g *Gate) Allow(c Caller, verb Verb, repository string) bool {
	return !g.Ruled() || g.options.Rules.Allow(c, verb, repository)
}

// Names reports whether a rule that allows a caller to do something names the
// caller itself, or everybody, and not only who is anonymous: then the operator
// trusts it with what took a secret of ours.
func (g *Gate) Names(c Caller, verb Verb, repository string) bool {
	return c.Known() && g.options.Rules.naming(c, verb, repository) >= 0
}

// Why tells which rule allows a caller to do something, and its number, counted
// from 1; 0 where none does. Who is known and may administrate may see the
// metrics by that rule.
func (g *Gate) Why(c Caller, verb Verb, repository string) (number int, rule Rule) {
	i := g.options.Rules.find(c, verb, repository)
	if i < 0 && verb == Metrics && c.Known() {
		i = g.options.Rules.find(c, Admin, "")
	}
	if i < 0 {
		return 0, Rule{}
	}
	return i + 1, g.options.Rules[i]
}

// Scrapes reports whether a caller may see the metrics, which name upstreams
// and tell how much is used.
func (g *Gate) Scrapes(c Caller) bool {
	number, _ := g.Why(c, Metrics, "")
	return !g.Ruled() || number > 0
}

// Refusal says that who somebody is could not be shown.
type Refusal struct {
	Message string
	// Wait is how long the caller is locked out for having guessed or asked too much.
	Wait time.Duration
	// Unavailable says that it is not the caller's fault: who could tell
	// whether its credential is good cannot be asked.
	Unavailable bool
	Err         error // for the log
}

func (r *Refusal) Error() string {
	if r.Err != nil {
		return r.Message + ": " + r.Err.Error()
	}
	return r.Message
}

func (r *Refusal) Unwrap() error { return r.Err }

var errCredential = &Refusal{Message: "this credential is not known here"}

// Identify finds out who asks. Who shows nothing is anonymous; who shows a
// credential that is not right, or two, gets a *[Refusal].
func (g *Gate) Identify(r *http.Request) (Caller, error) {
	if shown := r.Header.Values("Authorization"); len(shown) > 1 { // one may be what a proxy in front has looked at
		return Caller{}, &Refusal{Message: "there are two credentials: want one Authorization header"}
	} else if len(shown) == 1 && shown[0] != "" && g.SignsIn() && !emptyLogin(r) {
		return g.byAuthorization(r, shown[0])
	}
	if g.options.Certificates && r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		c, err := byCertificate(r.TLS.VerifiedChains[0][0], g.options.Now())
		if err != nil {
			return Caller{}, &Refusal{Message: "this certificate is not good here", Err: err}
		}
		return c, nil
	}
	return nobody, nil
}

// emptyLogin reports whether a request shows what some clients send that have no
// login: no user and no password.
func emptyLogin(r *http.Request) bool {
	user, password, isLogin := r.BasicAuth()
	return isLogin && user == "" && password == ""
}

func (g *Gate) byAuthorization(r *http.Request, authorization string) (Caller, error) {
	scheme, value, _ := strings.Cut(authorization, " ")
	value = strings.TrimSpace(value)
	if len(value) > maxCredential {
		return Caller{}, errCredential
	}
	switch strings.ToLower(scheme) {
	case "bearer":
		return g.byToken(r, value)
	case "basic":
		decoded, err := base64.StdEncoding.DecodeString(value)
		user, password, ok := strings.Cut(string(decoded), ":")
		if err != nil || !ok {
			return Caller{}, errCredential
		}
		return g.byPassword(r, user, password)
	}
	return Caller{}, errCredential
}

func (g *Gate) byToken(r *http.Request, token string) (Caller, error) {
	c, err := g.tokens.take(token)
	if errors.Is(err, errNotOurs) {
		c, err = g.issuers.take(r.Context(), token)
	}
	switch {
	case errors.Is(err, errIssuerSilent):
		return Caller{}, &Refusal{Message: "whether this token is good cannot be found out now: its issuer does not answer", Unavailable: true, Err: err}
	case err != nil:
		return Caller{}, &Refusal{Message: "this token is not good here", Err: err}
	}
	return c, nil
}

func (g *Gate) byPassword(r *http.Request, user, password string) (Caller, error) {
	c, err := g.byToken(r, password)
	if err == nil || !errors.Is(err, errNotOurs) {
		return c, err
	}
	if g.htpasswd == nil {
		return Caller{}, &Refusal{Message: errCredential.Message, Err: err}
	}
	l, fault := g.htpasswd.login(user, password)
	address := addressOf(r)
	right, err := g.signsIn(r.Context(), address, l)
	if err != nil {
		return Caller{}, err
	}
	if !right {
		return Caller{}, &Refusal{Message: errCredential.Message, Err: fault}
	}
	return Caller{Name: kindUser + ":" + user}, nil
}

// signsIn finds out whether a login is right, when it is its turn. The error is
// a *[Refusal]: the caller is locked out, or left before, which is no guess.
func (g *Gate) signsIn(ctx context.Context, address string, l login) (bool, error) {
	if known, err := g.knows(address, l); known || err != nil {
		return known, err
	}
	leave, err := g.turns.line(ctx, address)
	if err != nil {
		return false, &Refusal{Message: errCredential.Message, Err: err}
	}
	defer leave()
	// Others of this address were before us, perhaps with the same login.
	if known, err := g.knows(address, l); known || err != nil {
		return known, err
	}
	done, err := g.turns.slot(ctx)
	if err != nil {
		return false, &Refusal{Message: errCredential.Message, Err: err}
	}
	defer done()
	if g.htpasswd.right(l) {
		g.guesses.right(address, l.user)
		return true, nil
	}
	g.guesses.wrong(address, l.user) // before the next of this address has its turn
	return false, nil
}

// knows reports whether a login was right a short while ago, unless its caller
// is locked out.
func (g *Gate) knows(address string, l login) (bool, error) {
	if wait := g.guesses.locked(address, l.user); wait > 0 {
		return false, &Refusal{Message: "too many wrong passwords", Wait: wait}
	}
	known := g.htpasswd.known(l)
	if known {
		g.guesses.saw(address, l.user)
	}
	return known, nil
}

// TokenPath is where the mirror gives tokens, and Service what they are for.
const (
	TokenPath = "/token"
	Service   = issuer
)

// Token gives a caller a token that says who it is. scopes are what the caller
// wants it for, as docker's token specification has them; the answer names what
// the rules allow of them. The error says which one is not understood.
func (g *Gate) Token(c Caller, scopes ...string) (Token, error) {
	granted, err := g.grant(c, scopes)
	if err != nil {
		return Token{}, err
	}
	t, err := g.tokens.give(c)
	t.Scope = granted
	return t, err
}

// Challenge is the WWW-Authenticate of a 401: where to get a token, and for
// what. repository may be "".
func (g *Gate) Challenge(r *http.Request, verb Verb, repository string) string {
	if !g.SignsIn() {
		return `Certificate realm="imagecache"` // no client knows it, and none sends a password
	}
	where := g.options.TokenURL
	if where == "" {
		scheme := "http"
		if r.TLS != nil {
			scheme = "https"
		}
		where = scheme + "://" + r.Host + TokenPath
	}
	challenge := fmt.Sprintf("Bearer realm=%q,service=%q", where, issuer)
	if repository != "" {
		challenge += fmt.Sprintf(",scope=%q", "repository:"+repository+":"+actions(verb))
	}
	return challenge
}

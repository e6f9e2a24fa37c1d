package access

import (
	"encoding/base64"
	"errors"
	"fmt"
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
}

// Gate finds out who asks, and says what they may. All methods may be called
// in parallel.
type Gate struct {
	options  Options
	htpasswd *htpasswd // nil: no file
	issuers  *issuers
	tokens   *tokens
	guesses  *guesses
	limits   *limits
}

// New checks the options and reads the files they name. It needs no network.
func New(o Options) (*Gate, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := o.Rules.Check(); err != nil {
		return nil, err
	}
	g := &Gate{options: o, guesses: newGuesses(o.Now)}
	var err error
	if g.limits, err = newLimits(o.Rate, o.AtOnce, o.Now); err != nil {
		return nil, err
	}
	if g.tokens, err = newTokens(o.Now); err != nil {
		return nil, err
	}
	if g.issuers, err = newIssuers(o.Issuers, o.Now); err != nil {
		return nil, err
	}
	if o.HtpasswdFile != "" {
		g.htpasswd, err = openHtpasswd(o.HtpasswdFile, o.Now)
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

// Refusal says that who somebody is could not be shown.
type Refusal struct {
	Message string
	// Wait is how long the caller is locked out for having guessed.
	Wait time.Duration
	Err  error // for the log
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
// credential that is not right gets a *[Refusal].
func (g *Gate) Identify(r *http.Request) (Caller, error) {
	if authorization := r.Header.Get("Authorization"); authorization != "" && g.SignsIn() {
		return g.byAuthorization(r, authorization)
	}
	if g.options.Certificates && r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		if c, ok := byCertificate(r.TLS.VerifiedChains[0][0]); ok {
			return c, nil
		}
	}
	return nobody, nil
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
		if user == "" && password == "" { // what some clients send when they have none
			return nobody, nil
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
	if err != nil {
		return Caller{}, &Refusal{Message: "this token is not good here", Err: err}
	}
	return c, nil
}

func (g *Gate) byPassword(r *http.Request, user, password string) (Caller, error) {
	if c, err := g.byToken(r, password); err == nil || !errors.Is(err, errNotOurs) {
		return c, err
	}
	if g.htpasswd == nil {
		return Caller{}, errCredential
	}
	address := addressOf(r)
	if wait := g.guesses.locked(address, user); wait > 0 {
		return Caller{}, &Refusal{Message: "too many wrong passwords", Wait: wait}
	}
	right, err := g.htpasswd.has(r.Context(), user, password)
	if !right && r.Context().Err() != nil {
		return Caller{}, &Refusal{Message: errCredential.Message, Err: err} // it left; that is no guess
	}
	if !right {
		g.guesses.wrong(address, user)
		return Caller{}, &Refusal{Message: errCredential.Message, Err: err}
	}
	g.guesses.right(address, user)
	return Caller{Name: kindUser + ":" + user}, nil
}

// Token is the answer of the token endpoint (distribution, "Token
// Authentication Specification").
type Token struct {
	Token       string    `json:"token"`
	AccessToken string    `json:"access_token"` // the same, by its OAuth2 name
	ExpiresIn   int       `json:"expires_in"`   // seconds
	IssuedAt    time.Time `json:"issued_at"`
}

// Token gives a caller a token that says who it is.
func (g *Gate) Token(c Caller) (Token, error) {
	t, err := g.tokens.give(c)
	return Token{Token: t, AccessToken: t, ExpiresIn: int(tokenFor / time.Second), IssuedAt: g.options.Now().UTC()}, err
}

// TokenPath is where the mirror gives tokens.
const TokenPath = "/token"

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

// actions are what docker's scopes call a verb.
func actions(verb Verb) string {
	switch verb {
	case Push:
		return "pull,push"
	case Delete:
		return "delete"
	}
	return "pull"
}

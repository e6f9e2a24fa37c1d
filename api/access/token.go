package access

import (
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	// tokenFor is how long a token of ours is good: longer than a pull of a
	// large image asks for things, and the longest that a user who was taken
	// out of the htpasswd file still gets in.
	tokenFor = 10 * time.Minute
	// issuer is who signs and takes our tokens.
	issuer = "imagecache"
	// maxCredential bounds what a caller may show, in bytes: a token of 16 KiB,
	// such as one that lists some hundred groups, as a password in base64.
	maxCredential = 24 << 10
)

var errNotOurs = errors.New("not a token of ours")

// tokens signs and checks our own tokens, under a key of this process.
type tokens struct {
	key    []byte
	signer jose.Signer
	now    func() time.Time
}

func newTokens(now func() time.Time) (*tokens, error) {
	key := make([]byte, 32)
	rand.Read(key)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
	return &tokens{key: key, signer: signer, now: now}, err
}

// claims are what a token says.
type claims struct {
	jwt.Claims
	Groups []string `json:"groups,omitempty"`
}

// Token is the answer of the token endpoint (distribution, "Token
// Authentication Specification").
type Token struct {
	Token       string    `json:"token"`
	AccessToken string    `json:"access_token"` // the same, by its OAuth2 name
	Scope       string    `json:"scope,omitempty"`
	ExpiresIn   int       `json:"expires_in"` // seconds
	IssuedAt    time.Time `json:"issued_at"`
}

// give makes a token for a caller. It ends with what the caller has shown, so
// that nobody stays in by showing a token for the next one.
func (t *tokens) give(c Caller) (Token, error) {
	now, lasts := t.now(), tokenFor
	if !c.until.IsZero() {
		lasts = min(lasts, c.until.Sub(now))
	}
	signed, err := t.sign(c, now, now.Add(lasts))
	return Token{Token: signed, AccessToken: signed, ExpiresIn: int(lasts / time.Second), IssuedAt: now.UTC()}, err
}

func (t *tokens) sign(c Caller, now, until time.Time) (string, error) {
	return jwt.Signed(t.signer).Claims(claims{
		Claims: jwt.Claims{Issuer: issuer, Subject: c.Name, Audience: jwt.Audience{issuer}, ID: rand.Text(),
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now.Add(-time.Minute)), Expiry: jwt.NewNumericDate(until)},
		Groups: c.Groups,
	}).Serialize()
}

// take reads a token. The error is errNotOurs for one that somebody else made.
func (t *tokens) take(token string) (Caller, error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.HS256})
	if err != nil {
		return Caller{}, errNotOurs
	}
	var said claims
	if err := parsed.Claims(t.key, &said); err != nil {
		return Caller{}, errNotOurs
	}
	if err := said.ValidateWithLeeway(jwt.Expected{Issuer: issuer, AnyAudience: jwt.Audience{issuer}, Time: t.now()}, 0); err != nil {
		return Caller{}, fmt.Errorf("the token is not good: %w", err)
	}
	return Caller{Name: said.Subject, Groups: said.Groups, until: said.Expiry.Time()}, nil
}

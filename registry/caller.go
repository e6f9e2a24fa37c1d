package registry

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
)

// maxAuthorization bounds what a caller may show, in bytes: tokens of the
// large clouds have up to 6 KiB, and some hundred are kept in memory.
const maxAuthorization = 16 << 10

// Caller is who asks, as far as it has shown a credential of its own. The zero
// Caller has shown none. However it is printed, logged or encoded, it says no
// more than whether there is one.
type Caller struct {
	// login is a function, because fmt follows pointers in unexported fields.
	login func() authn.AuthConfig
}

// NewCaller reads the value of an Authorization header (RFC 9110 section
// 11.6.2). Basic needs a user and a password: some clients send an empty one
// when they have none (skopeo 1.9). Bearer is a token that the caller
// got from the upstream's own token service. Anything else is no credential.
func NewCaller(authorization string) Caller {
	scheme, value, _ := strings.Cut(authorization, " ")
	value = strings.TrimSpace(value)
	if value == "" || len(value) > maxAuthorization || strings.ContainsAny(value, " \r\n") {
		return Caller{}
	}
	switch strings.ToLower(scheme) {
	case "basic":
		decoded, err := base64.StdEncoding.DecodeString(value)
		username, password, _ := strings.Cut(string(decoded), ":")
		if err != nil || username == "" || password == "" {
			return Caller{}
		}
		return callerWith(authn.AuthConfig{Username: username, Password: password})
	case "bearer":
		return callerWith(authn.AuthConfig{RegistryToken: value})
	}
	return Caller{}
}

func callerWith(login authn.AuthConfig) Caller {
	return Caller{func() authn.AuthConfig { return login }}
}

// Anonymous reports whether the caller has shown no credential.
func (c Caller) Anonymous() bool { return c.login == nil }

// String tells whether there is a credential, and nothing of it.
func (c Caller) String() string {
	if c.Anonymous() {
		return "nobody"
	}
	return "a credential"
}

// Format is String for every verb.
func (c Caller) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, c.String()) }

// LogValue is String.
func (c Caller) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText is String.
func (c Caller) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

type callerKey struct{}

// WithCaller returns a context under which the caller asks. Without it nobody does.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

type looksKey struct{}

// OnlyLooking returns a context under which the caller wants to know of a
// manifest and not to have it, as by HEAD: nothing that belongs to it is
// fetched ahead.
func OnlyLooking(ctx context.Context) context.Context {
	return context.WithValue(ctx, looksKey{}, true)
}

func onlyLooks(ctx context.Context) bool {
	looks, _ := ctx.Value(looksKey{}).(bool)
	return looks
}

func callerOf(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// rightKey is of a right in one repository.
type rightKey struct{ in Repository }

// WithRight returns a context under which the caller may do what it asks for in
// a repository, and in no other, because a rule of the operator's names it: with
// the operator's credential. Contexts with a right in each of several
// repositories are made one of the other.
func WithRight(ctx context.Context, in Repository) context.Context {
	return context.WithValue(ctx, rightKey{in}, true)
}

func rightOf(ctx context.Context, in Repository) bool { return ctx.Value(rightKey{in}) != nil }

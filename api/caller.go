package api

import (
	"net/http"
	"strconv"

	"github.com/imagecache/imagecache/registry"
)

// proving is a registry that may want to see a caller's own credential.
type proving interface {
	// Proving reports whether some upstream is not open to all who reach us, or
	// takes what they push.
	Proving() bool
}

var _ proving = (*registry.Registry)(nil)

// asCaller takes the credential out of a request and hands it on with its
// context, where it cannot be printed. Nothing that comes later finds it in
// the header.
func asCaller(r *http.Request) *http.Request {
	authorization := r.Header.Get("Authorization")
	if authorization == "" {
		return r
	}
	r.Header.Del("Authorization")
	return r.WithContext(registry.WithCaller(r.Context(), registry.NewCaller(authorization)))
}

// signIn is the challenge that makes clients send their credential (RFC 7617).
// The realm is for people: clients look up what to send by our own host.
func signIn(upstream string) string {
	realm := "imagecache"
	if upstream != "" {
		realm += ": " + upstream
	}
	return "Basic realm=" + strconv.QuoteToASCII(realm)
}

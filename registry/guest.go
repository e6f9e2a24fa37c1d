package registry

import (
	"context"

	"github.com/google/go-containerregistry/pkg/authn"
)

const (
	// guestsMost is how many callers' credentials are held in memory, with the
	// tokens got for them; who was not among the last ones signs in anew.
	guestsMost = 256
	// guestTokens is how many repositories' tokens one of them may hold.
	guestTokens = 64
)

// shown is a credential that a caller sent us.
type shown authn.AuthConfig

func (s shown) credential(context.Context, bool) (authn.AuthConfig, error) {
	return authn.AuthConfig(s), nil
}

// guest returns the upstream as the caller sees it, with its own credential
// and tokens. It shares the connections, what is known of the challenge, and
// the rest that is given to an upstream that fails or limits us. refused is
// told of each repository that upstream refuses to this credential.
func (u *upstream) guest(c Caller, refused func(path string)) *upstream {
	g := *u
	g.forCallers = true
	tokens := newTokens(u)
	tokens.most = guestTokens
	g.signIn(u.auth.challenges, tokens, shown(c.login()))
	g.auth.refused = refused
	return &g
}

package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"golang.org/x/sync/singleflight"
)

// signInTime bounds what signing in takes, however long its askers wait: a
// ping, a helper or a token is for all who ask after it.
const signInTime = 30 * time.Second

// way is what a request's signing in needs to know and tells back. It goes
// with the request's context, through redirects too, and is used by one
// request at a time.
type way struct {
	repository string // what is asked of upstream is in it: library/nginx
	scope      string // of the token: repository:library/nginx:pull
	credential bool   // told back: the credential had a part in the last answer
}

type wayKey struct{}

func withWay(ctx context.Context, w *way) context.Context {
	return context.WithValue(ctx, wayKey{}, w)
}

// pass is what lets a request in. The zero pass is none.
type pass struct {
	authorization string           // the header
	login         authn.AuthConfig // what it was got with, zero for nothing
	fresh         bool             // it is a token that was got for this request
}

func (p pass) credential() bool { return p.login != (authn.AuthConfig{}) }

// authTransport signs requests to one upstream, and only those: what upstream
// redirects to gets no Authorization. It signs ahead of being asked once it
// knows the upstream's challenge.
type authTransport struct {
	base       *url.URL
	inner      http.RoundTripper
	userAgent  string
	challenges *challenges
	tokens     *tokens
	keys       credentialSource
	letIn      atomic.Bool       // upstream answered something else than a 401
	refused    func(path string) // told of repositories that are refused; may be nil
	accepted   func(path string) // told of repositories for which a credential was accepted; may be nil
}

func (t *authTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	w, _ := req.Context().Value(wayKey{}).(*way)
	if w == nil || !sameOrigin(req.URL, t.base) {
		return t.send(req, pass{})
	}
	res, err := t.signed(req, w)
	if t.refused != nil && refuses(res, err) {
		t.refused(w.repository)
	}
	if t.accepted != nil && err == nil && w.credential && res.StatusCode < http.StatusMultipleChoices {
		t.accepted(w.repository)
	}
	return res, err
}

// refuses reports whether upstream, or its token service, said no to whom asks.
func refuses(res *http.Response, err error) bool {
	if err != nil {
		var ours *Error
		return errors.As(err, &ours) && ours.refuses()
	}
	return res.StatusCode == http.StatusUnauthorized || res.StatusCode == http.StatusForbidden
}

// signed sends a request to upstream with what lets it in, and once more when
// the answer says that something else would.
func (t *authTransport) signed(req *http.Request, w *way) (*http.Response, error) {
	ctx := req.Context()
	asked, err := t.known(ctx)
	if err != nil {
		return nil, err
	}
	login, err := t.login(ctx, asked, false)
	if err != nil {
		return nil, err
	}
	first, err := t.pass(ctx, asked, w.scope, login)
	if err != nil {
		return nil, err
	}
	w.credential = first.credential()
	res, err := t.send(req, first)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusUnauthorized {
		t.letIn.Store(true)
		return res, nil
	}
	second, again, err := t.afterRefusal(ctx, asked, challengeOf(res.Header), w.scope, first)
	if err != nil || again {
		_, _ = io.CopyN(io.Discard, res.Body, maxComplaint) // so that the connection is used again
		res.Body.Close()
	}
	switch {
	case err != nil:
		return nil, err
	case !again:
		return res, nil
	}
	if req.GetBody != nil { // the first one is gone
		if req.Body, err = req.GetBody(); err != nil {
			return nil, err
		}
	}
	w.credential = second.credential()
	return t.send(req, second)
}

// known returns the upstream's challenge. Who has a credential asks for it
// ahead; who has none has nothing to send ahead, and saves the round trip: the
// request itself gets the challenge, if there is one.
func (t *authTransport) known(ctx context.Context) (challenge, error) {
	if c, ok := t.challenges.remembered(); ok || t.letIn.Load() {
		return c, nil
	}
	login, err := t.keys.credential(ctx, false)
	if err != nil && ctx.Err() != nil {
		return challenge{}, err // there is no time left to ask
	}
	if err != nil || login != (authn.AuthConfig{}) {
		return t.challenges.ask(ctx)
	}
	return challenge{}, nil
}

// send sends a copy of req with the pass.
func (t *authTransport) send(req *http.Request, p pass) (*http.Response, error) {
	out := req.Clone(req.Context())
	out.Header.Del("Authorization")
	out.Header.Set("User-Agent", t.userAgent)
	if p.authorization != "" {
		out.Header.Set("Authorization", p.authorization)
	}
	return t.inner.RoundTrip(out)
}

// afterRefusal decides whether a 401 is worth one more request: when upstream
// asks for something else than we took it to, when the token may have been
// revoked, when the credential changed. The same password is not tried twice,
// for that is how accounts get locked.
func (t *authTransport) afterRefusal(ctx context.Context, asked, now challenge, scope string, refused pass) (pass, bool, error) {
	if now.scheme == "" {
		now = asked
	}
	if now != asked {
		t.challenges.learn(now)
	}
	login, err := t.login(ctx, now, true)
	if err != nil {
		return pass{}, false, err
	}
	same := now == asked && login == refused.login
	switch now.scheme {
	case "basic":
		if same {
			return pass{}, false, nil
		}
	case "bearer":
		if same && (login.RegistryToken != "" || refused.fresh) {
			return pass{}, false, nil // there is no other token to be had
		}
		t.tokens.forget(refused.authorization)
	default:
		return pass{}, false, nil
	}
	second, err := t.pass(ctx, now, scope, login)
	return second, err == nil && second.authorization != "", err
}

// login returns the credential if the challenge asks for one.
func (t *authTransport) login(ctx context.Context, c challenge, renew bool) (authn.AuthConfig, error) {
	if c.scheme != "basic" && c.scheme != "bearer" {
		return authn.AuthConfig{}, nil
	}
	return t.keys.credential(ctx, renew)
}

func (t *authTransport) pass(ctx context.Context, c challenge, scope string, login authn.AuthConfig) (pass, error) {
	switch c.scheme {
	case "basic":
		return pass{authorization: basic(login), login: login}, nil
	case "bearer":
		if login.RegistryToken != "" {
			return pass{authorization: "Bearer " + login.RegistryToken, login: login}, nil
		}
		return t.tokens.pass(ctx, c, scope, login)
	}
	return pass{}, nil
}

// basic is the header of RFC 7617, empty without a credential.
func basic(login authn.AuthConfig) string {
	switch {
	case login.Username != "" && login.Password != "":
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(login.Username+":"+login.Password))
	case login.Auth != "":
		return "Basic " + login.Auth
	}
	return ""
}

// together runs work once for all who ask for the same key at one time. The
// work is not ended by an asker who leaves; it has its own deadline.
func together[T any](ctx context.Context, group *singleflight.Group, key string, work func(context.Context) (T, error)) (T, error) {
	done := group.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), signInTime)
		defer cancel()
		return work(ctx)
	})
	var none T
	select {
	case <-ctx.Done():
		return none, ctx.Err()
	case result := <-done:
		if result.Err != nil {
			return none, result.Err
		}
		return result.Val.(T), nil
	}
}

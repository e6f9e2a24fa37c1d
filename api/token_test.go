package api

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/imagecache/imagecache/api/access"
)

const formType = "application/x-www-form-urlencoded"

func (g *guarded) tokenBy(form url.Values, header ...string) (*http.Response, string) {
	g.t.Helper()
	return sendTo(g.t, "POST", g.url+"/token", form.Encode(), append([]string{"Content-Type", formType}, header...)...)
}

// asNobody is the header of who asked for a token and showed nothing.
func (g *guarded) asNobody() []string {
	g.t.Helper()
	var given access.Token
	if res, body := get(g.t, "GET", g.url+"/token?service=imagecache"); json.Unmarshal([]byte(body), &given) != nil || given.Token == "" {
		g.t.Fatalf("%d %s", res.StatusCode, body)
	}
	return []string{"Authorization", "Bearer " + given.Token}
}

// TestTheCatalogAsksWhoAsks: clients such as regctl show a login to who asks for
// it alone, and take an empty list for the whole answer.
func TestTheCatalogAsksWhoAsks(t *testing.T) {
	g := newGuarded(t, someRules)
	res, body := g.do("GET", "_catalog", "")
	wantError(t, res, body, 401, "UNAUTHORIZED")
	if challenge := res.Header.Get("WWW-Authenticate"); !strings.HasPrefix(challenge, "Bearer realm=") {
		t.Errorf("the challenge is %q", challenge)
	}
	g.want(200, "GET", "_catalog", "", g.asNobody()...)
}

// TestTokensInBothOfDockersWays: by GET, and by POST as OAuth2 has it.
func TestTokensInBothOfDockersWays(t *testing.T) {
	g := newGuarded(t, someRules)
	login := url.Values{"grant_type": {"password"}, "username": {"ann"}, "password": {"ann's"}, "service": {"imagecache"}, "client_id": {"docker"},
		"access_type": {"offline"}, "scope": {"repository:local/team/app:pull,push,delete repository:up.example/team/app:pull registry:catalog:*", "repository:local/other:*"}}
	wantToken := func(res *http.Response, body, scope string) access.Token {
		t.Helper()
		var given access.Token
		if err := json.Unmarshal([]byte(body), &given); res.StatusCode != 200 || err != nil {
			t.Fatalf("%d %s, %v", res.StatusCode, body, err)
		}
		if given.Token == "" || given.Token != given.AccessToken || given.ExpiresIn < 60 || given.IssuedAt.IsZero() || given.Scope != scope {
			t.Errorf("%+v, want the scope %q", given, scope)
		}
		if strings.Contains(body, "refresh_token") {
			t.Error("a token that would have to outlive the daemon")
		}
		wantHeader(t, res, "Cache-Control", "no-store")
		g.want(202, "POST", "local/team/app/blobs/uploads/", "", "Authorization", "Bearer "+given.Token)
		return given
	}
	const granted = "repository:local/team/app:pull,push"
	res, body := g.tokenBy(login)
	given := wantToken(res, body, granted)
	// What a credential helper keeps as an identity token is one that says who it is.
	res, body = g.tokenBy(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {given.Token}, "service": {"imagecache"}})
	wantToken(res, body, "")
	res, body = get(t, "GET", g.url+"/token?account=ann&client_id=docker&offline_token=true&service=imagecache&scope=repository:local/team/app:pull&scope=repository:localhost:5000/x:pull", as("ann")...)
	wantToken(res, body, "repository:local/team/app:pull")

	change := func(key string, values ...string) url.Values {
		form := url.Values{}
		for k, v := range login {
			form[k] = v
		}
		form[key] = values
		return form
	}
	for name, c := range map[string]struct {
		form   url.Values
		status int
		says   string
	}{
		"a wrong password":      {change("password", "wrong"), 401, "UNAUTHORIZED"},
		"an unknown user":       {change("username", "eve"), 401, "UNAUTHORIZED"},
		"another service":       {change("service", "registry.example"), 400, "imagecache alone"},
		"no grant":              {change("grant_type"), 400, "password or refresh_token"},
		"another grant":         {change("grant_type", "client_credentials"), 400, "password or refresh_token"},
		"a scope that is none":  {change("scope", "everything"), 400, `\"everything\" is no scope`},
		"a scope of no actions": {change("scope", "repository:local/team/app:"), 400, "is no scope"},
		"too much":              {change("password", strings.Repeat("x", maxTokenForm)), 413, "larger than"},
		"a forged token":        {url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"e30.e30.e30"}}, 401, "UNAUTHORIZED"},
	} {
		res, body := g.tokenBy(c.form, as("root")...) // the header is not what the form shows
		if res.StatusCode != c.status || !strings.Contains(body, c.says) {
			t.Errorf("%s: %d %s, want %d and %q", name, res.StatusCode, body, c.status, c.says)
		}
	}
	res, body = sendTo(t, "POST", g.url+"/token", "{}", "Content-Type", "application/json")
	wantError(t, res, body, 400, "REQUEST_INVALID")
	for _, method := range []string{"PUT", "DELETE", "HEAD"} {
		res, _ := sendTo(t, method, g.url+"/token", "")
		if res.StatusCode != 405 {
			t.Errorf("%s: %d", method, res.StatusCode)
		}
		wantHeader(t, res, "Allow", "GET, POST")
	}
}

// TestWhoAsksForTokensIsBounded like whoever asks for anything else.
func TestWhoAsksForTokensIsBounded(t *testing.T) {
	now := time.Now() // and it stays so
	gate, err := access.New(access.Options{HtpasswdFile: usersFile(t, "ann", "bob"), Rules: someRules, Rate: 1, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	url := listen(t, New(Options{Registry: newHome(t).registry, Gate: gate}).Mirror())
	refused := 0
	for range 30 {
		res, body := get(t, "GET", url+"/token", as("ann")...)
		switch res.StatusCode {
		case 200:
		case 429:
			wantError(t, res, body, 429, "TOOMANYREQUESTS")
			refused++
		default:
			t.Fatalf("%d %s", res.StatusCode, body)
		}
	}
	if refused == 0 {
		t.Error("30 tokens at once were given to a caller of one request a second")
	}
	if res, body := get(t, "GET", url+"/token", as("bob")...); res.StatusCode != 200 {
		t.Errorf("another caller: %d %s", res.StatusCode, body)
	}
}

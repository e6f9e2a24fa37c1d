package registrytest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// quietLife is how long a token lives that does not say so: no test waits for it.
const quietLife = 5 * time.Minute

// admits reports whether the request may see the repository, "" for /v2/.
func (r *Registry) admits(req *http.Request, repository string) bool {
	if r.options.Auth == AuthNone || (repository == "" && r.options.QuietPing) {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.options.Auth == AuthBasic {
		known, sees := r.knows(req)
		return r.public[repository] || (known && (repository == "" || sees(repository)))
	}
	got, ok := r.issued[strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")]
	if !ok || !time.Now().Before(got.until) {
		return false
	}
	return repository == "" || slices.Contains(got.scopes, scope(repository))
}

// knows reports whether the request has the right password, and which
// repositories its user may see. The lock is held.
func (r *Registry) knows(req *http.Request) (known bool, sees func(repository string) bool) {
	username, password, ok := req.BasicAuth()
	if ok && username == r.options.Username && password == r.password {
		return true, func(string) bool { return true }
	}
	u, known := r.users[username]
	return known && password == u.password, func(repository string) bool { return slices.Contains(u.repositories, repository) }
}

// challenge refuses: a user who is known, by a registry without a token
// service, with 403; everybody else is asked to sign in.
func (r *Registry) challenge(answer *reply, req *http.Request, repository string) {
	r.mu.Lock()
	known, _ := r.knows(req)
	r.mu.Unlock()
	if known && r.options.Auth == AuthBasic {
		answer.refuse(http.StatusForbidden, "DENIED", "requested access to the resource is denied")
		return
	}
	r.signIn(answer, repository)
}

func scope(repository string) string { return "repository:" + repository + ":pull" }

func (r *Registry) signIn(answer *reply, repository string) {
	answer.refuse(http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	if r.options.Auth == AuthBasic {
		answer.header.Set("WWW-Authenticate", `Basic realm="registrytest"`)
		return
	}
	realm := r.options.Realm
	if realm == "" {
		realm = r.TokenURL()
	}
	value := fmt.Sprintf(`Bearer realm="%s",service="registrytest"`, realm)
	if repository != "" {
		value += fmt.Sprintf(`,scope="%s"`, scope(repository))
	}
	answer.header.Set("WWW-Authenticate", value)
}

// TokenURL is the address of the token service.
func (r *Registry) TokenURL() string {
	if r.options.TLS {
		return "https://" + r.tokens.address + "/token"
	}
	return "http://" + r.tokens.address + "/token"
}

// serveToken issues tokens: for the repositories that a user may see to who
// knows the password, for public ones to everybody.
func (r *Registry) serveToken(w http.ResponseWriter, req *http.Request) {
	answer := newReply()
	r.mu.Lock()
	if known, sees := r.knows(req); req.Header.Get("Authorization") != "" && !known {
		answer.refuse(http.StatusUnauthorized, "UNAUTHORIZED", "wrong password")
	} else {
		answer.fill("application/json", "", r.issue(req.URL.Query()["scope"], known, sees))
	}
	r.mu.Unlock()
	r.send(w, req, answer)
}

// issue makes a token. The lock is held.
func (r *Registry) issue(asked []string, known bool, sees func(string) bool) []byte {
	granted := grant{until: time.Now().Add(quietLife)}
	for _, s := range asked {
		repository := strings.TrimSuffix(strings.TrimPrefix(s, "repository:"), ":pull")
		if (known && sees(repository)) || r.public[repository] {
			granted.scopes = append(granted.scopes, s)
		}
	}
	token := secret()
	body := map[string]any{"token": token}
	if life := r.options.TokenLife; life > 0 {
		granted.until = time.Now().Add(life)
		body["expires_in"] = int(life / time.Second)
	}
	r.issued[token] = granted
	encoded, _ := json.Marshal(body)
	return encoded
}

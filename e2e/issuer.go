//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// issuer is Glewlwyd, an OpenID Connect provider, on TLS with a certificate that nobody but its own ca_file vouches for. It is administered as
// its own web page does it.
type issuer struct {
	dir, addr string
	ca        string // path of its certificate
	web       *http.Client
	proc      *process
	key       *ecdsa.PrivateKey // that it signs with
}

const (
	issuerAdmin    = "admin"
	issuerPassword = "password" // which its schema comes with
	issuerUser     = "ann"
	issuerEmail    = "ann@example.test"
)

// glewlwyd gives the path of what setup.sh unpacked of it.
func glewlwyd(path string) string {
	bin, err := cacheFolder()
	if err != nil {
		return ""
	}
	return filepath.Join(filepath.Dir(bin), "glewlwyd", path)
}

// startIssuer starts one that knows a user in the groups dev and ops, and two clients: imagecache and another.
func startIssuer(t *testing.T) *issuer {
	t.Helper()
	dir := t.TempDir()
	i := &issuer{dir: dir, addr: freeAddress(t), ca: filepath.Join(dir, "ca.pem")}
	writeCertificate(t, i.ca, filepath.Join(dir, "key.pem"))
	i.web = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: rootsOf(t, i.ca)}, DisableKeepAlives: true}}
	schema := glewlwyd("usr/share/dbconfig-common/data/glewlwyd/install/sqlite3")
	output(t, debian("sqlite3"), filepath.Join(dir, "db"), ".read "+schema)
	write(t, filepath.Join(dir, "conf"), []byte(i.settings()))
	i.start(t)
	i.newKey(t)
	admin := i.signIn(t, issuerAdmin, issuerPassword)
	i.call(t, admin, http.MethodPut, "/mod/user/database", map[string]any{"module": "database", "name": "database", "display_name": "users",
		"parameters": map[string]any{"use-glewlwyd-connection": true, "data-format": map[string]any{"groups": map[string]any{"multiple": true, "read": true, "write": true}}}})
	i.call(t, admin, http.MethodPut, "/mod/user/database/reset", nil)
	i.call(t, admin, http.MethodPost, "/mod/plugin/", i.plugin(t, 3600))
	i.call(t, admin, http.MethodPost, "/user/", map[string]any{"username": issuerUser, "password": homePassword, "email": issuerEmail,
		"groups": []string{"dev", "ops"}, "scope": []string{"openid"}, "enabled": true})
	for _, client := range []string{"imagecache", "another"} {
		i.call(t, admin, http.MethodPost, "/client/", map[string]any{"client_id": client, "enabled": true, "confidential": false,
			"scope": []string{"openid"}, "redirect_uri": []string{"http://127.0.0.1:1/"}, "authorization_type": []string{"id_token"}})
	}
	return i
}

func (i *issuer) settings() string {
	host, port, _ := strings.Cut(i.addr, ":")
	return fmt.Sprintf(`bind_address = %q
port = %s
external_url = "https://%s"
login_url = "login.html"
api_prefix = "api"
log_mode = "console"
log_level = "INFO"
admin_scope = "g_admin"
profile_scope = "g_profile"
user_module_path = %q
client_module_path = %q
user_auth_scheme_module_path = %q
plugin_module_path = %q
hash_algorithm = "SHA512"
use_secure_connection = true
secure_connection_key_file = %q
secure_connection_pem_file = %q
database = { type = "sqlite3"; path = %q; };
`, host, port, i.addr, glewlwyd("usr/lib/glewlwyd/user"), glewlwyd("usr/lib/glewlwyd/client"), glewlwyd("usr/lib/glewlwyd/scheme"),
		glewlwyd("usr/lib/glewlwyd/plugin"), filepath.Join(i.dir, "key.pem"), i.ca, filepath.Join(i.dir, "db"))
}

// url is the issuer's, as its tokens have it.
func (i *issuer) url() string { return "https://" + i.addr + "/api/oidc" }

func (i *issuer) start(t *testing.T) {
	t.Helper()
	i.proc = start(t, "glewlwyd", exec.Command(glewlwyd("usr/bin/glewlwyd"), "--config-file="+filepath.Join(i.dir, "conf")))
	eventually(t, "glewlwyd answers", func() error {
		if i.proc.ended() {
			t.Fatalf("glewlwyd ended:\n%s", i.proc.tail())
		}
		resp, err := i.web.Get("https://" + i.addr + "/api/config/") // which it tells everybody
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
}

// newKey makes the key that it signs with once it is set.
func (i *issuer) newKey(t *testing.T) {
	t.Helper()
	var err error
	if i.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
}

// plugin are the settings of its OpenID Connect part: its key, and how many seconds tokens live.
func (i *issuer) plugin(t *testing.T, seconds int) map[string]any {
	t.Helper()
	private, err := x509.MarshalPKCS8PrivateKey(i.key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(i.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{"module": "oidc", "name": "oidc", "display_name": "oidc", "parameters": map[string]any{
		"iss": i.url(), "jwt-type": "ecdsa", "jwt-key-size": "256",
		"key":                   string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
		"cert":                  string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})),
		"access-token-duration": seconds, "refresh-token-duration": 1209600, "code-duration": 600, "refresh-token-rolling": false, "allow-non-oidc": false,
		"auth-type-code-enabled": false, "auth-type-token-enabled": false, "auth-type-id-token-enabled": true, "auth-type-password-enabled": false,
		"auth-type-client-enabled": false, "auth-type-device-enabled": false, "auth-type-refresh-enabled": false, "jwks-show": true,
		"subject-type": "public", "encrypt-out-token-allow": false, "email-claim": "mandatory", "name-claim": "no", "scope-claim": "no",
		"claims":        []any{map[string]any{"name": "groups", "user-property": "groups", "type": "string", "mandatory": true, "on-demand": false, "scope": []string{}}},
		"allowed-scope": []string{"openid"}, "additional-parameters": []any{}, "client-sign_kid-parameter": "sign_kid", "client-pubkey-parameter": "pubkey",
		"client-jwks-parameter": "jwks", "client-jwks_uri-parameter": "jwks_uri", "restrict-scope-client-property": "",
	}}
}

// set has it use its key from now on, and make tokens that live so many seconds.
func (i *issuer) set(t *testing.T, seconds int) {
	t.Helper()
	admin := i.signIn(t, issuerAdmin, issuerPassword)
	i.call(t, admin, http.MethodPut, "/mod/plugin/oidc", i.plugin(t, seconds))
	i.call(t, admin, http.MethodPut, "/mod/plugin/oidc/reset", nil)
}

// signIn gives the cookie of a user.
func (i *issuer) signIn(t *testing.T, user, password string) string {
	t.Helper()
	resp := i.call(t, "", http.MethodPost, "/auth/", map[string]any{"username": user, "password": password})
	cookies := resp.Cookies()
	if len(cookies) == 0 {
		t.Fatalf("glewlwyd lets %s in without a cookie", user)
	}
	return cookies[0].Name + "=" + cookies[0].Value
}

// call asks its API, and wants it done.
func (i *issuer) call(t *testing.T, cookie, method, path string, body any) *http.Response {
	t.Helper()
	content, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+i.addr+"/api"+path, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Cookie", cookie)
	resp, err := i.web.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil || resp.StatusCode >= http.StatusBadRequest {
		t.Fatalf("glewlwyd answers %s %s: %s %s, %v", method, path, resp.Status, said, err)
	}
	return resp
}

// token is an ID token of its user for a client, which is the token's audience.
func (i *issuer) token(t *testing.T, client string) string {
	t.Helper()
	cookie := i.signIn(t, issuerUser, homePassword)
	i.call(t, cookie, http.MethodPut, "/auth/grant/"+client, map[string]any{"scope": "openid"})
	query := url.Values{"response_type": {"id_token"}, "client_id": {client}, "redirect_uri": {"http://127.0.0.1:1/"}, "scope": {"openid"},
		"nonce": {"n"}, "g_continue": {"1"}}
	resp := i.call(t, cookie, http.MethodGet, "/oidc/auth?"+query.Encode(), nil)
	back, err := url.Parse(resp.Header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	said, err := url.ParseQuery(back.Fragment)
	if err != nil || said.Get("id_token") == "" {
		t.Fatalf("glewlwyd sends its user to %s, %v", back, err)
	}
	return said.Get("id_token")
}

// rootsOf are the certificates of a file.
func rootsOf(t *testing.T, path string) *x509.CertPool {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(content)
	return pool
}

// bearer asks a daemon with a token in the header.
func bearer(ctx context.Context, d *daemon, token, path string) (*http.Response, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.addr+path, nil)
	if err != nil {
		return nil, "", err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp, string(body), err
}

package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/imagecache/imagecache/api/access"
	"github.com/imagecache/imagecache/registry"
)

// ledger is a log that is read while it is written.
type ledger struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *ledger) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// lines are those of the audit, as they are written so far.
func (l *ledger) lines() (all []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.SplitSeq(l.buf.String(), "\n") {
		if strings.Contains(line, "msg=audit") {
			all = append(all, line)
		}
	}
	return all
}

// remoteHome is a home that is administered over the network, and the audit.
type remoteHome struct {
	*home
	server *Server
	admin  string
	log    ledger
}

func newRemote(t *testing.T, rules access.Rules) *remoteHome {
	t.Helper()
	r := &remoteHome{home: newHome(t)}
	users := ""
	for _, user := range []string{"ann", "bob", "root"} {
		hash, err := bcrypt.GenerateFromPassword([]byte(user+"'s"), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		users += user + ":" + string(hash) + "\n"
	}
	file := filepath.Join(r.folder, "htpasswd")
	if err := os.WriteFile(file, []byte(users), 0o600); err != nil {
		t.Fatal(err)
	}
	gate, err := access.New(access.Options{HtpasswdFile: file, Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	r.server = New(Options{Registry: r.registry, Gate: gate, Rootfs: givenRootfs{}, Log: slog.New(slog.NewTextHandler(&r.log, nil))})
	r.admin, r.url = listen(t, r.server.RemoteAdmin()), listen(t, r.server.Mirror())
	return r
}

var adminRules = access.Rules{
	{Who: []string{"user:root"}, May: []access.Verb{access.Admin}},
	{Who: []string{"user:root", "user:ann"}, May: []access.Verb{access.Pull, access.Push, access.Delete}, Repositories: []string{"local/**"}},
	{Who: []string{"*"}, May: []access.Verb{access.Pull}, Repositories: []string{"local/free/*"}},
	{Who: []string{"*"}, May: []access.Verb{access.Admin}, Repositories: nil},
}

// TestWhoAdministratesOverTheNetwork asks every endpoint as everybody: each
// cell is a request, and only those of whom a rule lets administrate are let in.
func TestWhoAdministratesOverTheNetwork(t *testing.T) {
	r := newRemote(t, adminRules[:3])
	callers := map[string][]string{
		"nobody":         nil,
		"forged":         {"X-Forwarded-User", "root", "X-Remote-User", "root", "X-Forwarded-For", "127.0.0.1", "Forwarded", "for=127.0.0.1"},
		"wrong password": nil, // of another user each time, or they would be locked out
		"bob":            as("bob"),
		"ann":            as("ann"),
		"root":           as("root"),
	}
	for path, byMethod := range r.server.adminRoutes() {
		for method := range byMethod {
			for caller, header := range callers {
				if caller == "wrong password" {
					header = []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(method+path+":wrong"))}
				}
				answer, body := sendTo(t, method, r.admin+path, "{", append([]string{"Content-Type", "application/json"}, header...)...)
				want := map[string]int{"nobody": 401, "forged": 401, "wrong password": 401}[caller]
				known := caller == "ann" || caller == "bob"
				switch {
				case want != 0:
				case strings.HasPrefix(path, rootfsPath) || known && path != matchPath:
					want = 403
				}
				if want != 0 && answer.StatusCode != want || want == 0 && (answer.StatusCode == 401 || answer.StatusCode == 403) {
					t.Errorf("%s %s as %s: %d %s, want %d", method, path, caller, answer.StatusCode, body, want)
				}
				if answer.StatusCode == 401 {
					wantHeader(t, answer, "WWW-Authenticate", `Basic realm="imagecache"`)
				}
			}
		}
	}
	for _, path := range []string{"/v2/", "/api/v1/nosuch", "/api/v1//status", "/api/v1/%73tatus", "/API/v1/status", "/api/v1/pins/../status"} {
		if answer, body := sendTo(t, "GET", r.admin+path, ""); answer.StatusCode/100 == 2 {
			t.Errorf("%s as nobody: %d %s", path, answer.StatusCode, body)
		}
	}
}

func TestARuleForEverybodyLetsNobodyUnknownAdministrate(t *testing.T) {
	r := newRemote(t, adminRules)
	if answer, _ := sendTo(t, "GET", r.admin+"/api/v1/status", ""); answer.StatusCode != 401 {
		t.Errorf("nobody: %d", answer.StatusCode)
	}
	if answer, _ := sendTo(t, "GET", r.admin+"/api/v1/status", "", as("bob")...); answer.StatusCode != 200 {
		t.Errorf("somebody: %d", answer.StatusCode)
	}
}

// TestMatchTellsOverTheNetworkWhatTheCallerMayPull and everything on the socket.
func TestMatchTellsOverTheNetworkWhatTheCallerMayPull(t *testing.T) {
	r := newRemote(t, adminRules[:3])
	root := as("root")
	digests := map[string]string{}
	for _, place := range []string{"local/free/app", "local/team/app"} {
		blob := "a blob of " + place
		digests[place] = digestOf(blob)
		r.want(201, "POST", place+"/blobs/uploads/?digest="+digests[place], blob, root...)
	}
	asked := `[{"digest":"` + digests["local/free/app"] + `"},{"digest":"` + digests["local/team/app"] + `","size":24},{"digest":"` + digests["local/free/app"] + `","size":3}]`
	for caller, want := range map[string]int{"root": 2, "ann": 2, "bob": 1} {
		answer, body := sendTo(t, "POST", r.admin+matchPath, asked, append([]string{"Content-Type", "application/json"}, as(caller)...)...)
		var here []registry.Sought
		if err := json.Unmarshal([]byte(body), &here); err != nil || answer.StatusCode != 200 || len(here) != want {
			t.Errorf("%s: %d %s, %v", caller, answer.StatusCode, body, err)
		}
	}
	socket := listen(t, r.server.Admin())
	if _, body := post(t, socket+matchPath, asked); strings.Count(body, "digest") != 2 {
		t.Errorf("on the socket: %s", body)
	}
	answer, body := post(t, socket+matchPath, "["+strings.Repeat(`{"digest":"`+sha256d+`"},`, matchMost)+`{"digest":"`+sha256d+`"}]`)
	if answer.StatusCode != http.StatusRequestEntityTooLarge && answer.StatusCode != http.StatusBadRequest {
		t.Errorf("too many digests: %d %s", answer.StatusCode, body)
	}
	answer, _ = post(t, socket+matchPath, "["+strings.Repeat(" ", maxMatch)+"]")
	if answer.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a body that is too long: %d", answer.StatusCode)
	}
}

// TestEveryChangeIsOneLineOfTheAudit and every refusal of a caller, and nothing else.
func TestEveryChangeIsOneLineOfTheAudit(t *testing.T) {
	r := newRemote(t, adminRules[:3])
	root, json := as("root"), []string{"Content-Type", "application/json"}
	archive := ""
	for _, c := range []struct {
		what string // what the line says; "": there is none
		do   func() (*http.Response, string)
	}{
		{"caller=user:root verb=push what=/v2/local/free/app/blobs/uploads/ outcome=done", func() (*http.Response, string) {
			return r.do("POST", "local/free/app/blobs/uploads/?digest="+digestOf("{}"), "{}", root...)
		}},
		{"caller=user:root verb=push what=/v2/local/free/app/manifests/v1 outcome=done", func() (*http.Response, string) {
			return r.do("PUT", "local/free/app/manifests/v1", `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"x/y","digest":"`+digestOf("{}")+`","size":2},"layers":[]}`,
				append([]string{"Content-Type", "application/vnd.oci.image.manifest.v1+json"}, root...)...)
		}},
		{"", func() (*http.Response, string) { return r.do("GET", "local/free/app/manifests/v1", "") }},
		{"caller=anonymous verb=pull what=/v2/local/team/app/manifests/v1 outcome=refused reason=UNAUTHORIZED", func() (*http.Response, string) {
			return r.do("GET", "local/team/app/manifests/v1", "")
		}},
		{"caller=user:bob verb=delete what=/v2/local/free/app/manifests/v1 outcome=refused reason=DENIED", func() (*http.Response, string) {
			return r.do("DELETE", "local/free/app/manifests/v1", "", as("bob")...)
		}},
		{"caller=user:bob verb=pin what=/api/v1/pins outcome=refused reason=DENIED", func() (*http.Response, string) {
			return sendTo(t, "POST", r.admin+"/api/v1/pins", "{}", append(json, as("bob")...)...)
		}},
		{"caller=user:root verb=pin what=local/free/app:v1 outcome=done", func() (*http.Response, string) {
			return sendTo(t, "POST", r.admin+"/api/v1/pins", `{"reference":"local/free/app:v1"}`, append(json, root...)...)
		}},
		{"caller=user:root verb=pin what=local/free/app:v9 outcome=failed reason=MANIFEST_UNKNOWN", func() (*http.Response, string) {
			return sendTo(t, "POST", r.admin+"/api/v1/pins", `{"reference":"local/free/app:v9"}`, append(json, root...)...)
		}},
		{"caller=user:root verb=rm what=local/free/app:v1 outcome=failed reason=PINNED", func() (*http.Response, string) {
			return sendTo(t, "DELETE", r.admin+"/api/v1/images?ref=local/free/app:v1", "", root...)
		}},
		{"caller=user:root verb=unpin what=local/free/app:v1 outcome=done", func() (*http.Response, string) {
			return sendTo(t, "DELETE", r.admin+"/api/v1/pins?ref=local/free/app:v1", "", root...)
		}},
		{"caller=user:root verb=export what=local/free/app:v1 outcome=done", func() (*http.Response, string) {
			answer, body := sendTo(t, "POST", r.admin+"/api/v1/export", `{"references":["local/free/app:v1"]}`, append(json, root...)...)
			archive = body
			return answer, body
		}},
		{`caller=user:root verb=import what=local/free/app:v1 outcome=done`, func() (*http.Response, string) {
			return sendTo(t, "POST", r.admin+"/api/v1/import", archive, append([]string{"Content-Type", mediaTypeTar}, root...)...)
		}},
		{"caller=user:root verb=gc what=/api/v1/gc outcome=done", func() (*http.Response, string) {
			return sendTo(t, "POST", r.admin+"/api/v1/gc", `{}`, append(json, root...)...)
		}},
		{"caller=user:root verb=scrub what=/api/v1/scrub outcome=done", func() (*http.Response, string) {
			return sendTo(t, "POST", r.admin+"/api/v1/scrub", `{}`, append(json, root...)...)
		}},
		{"", func() (*http.Response, string) { return sendTo(t, "GET", r.admin+"/api/v1/status", "", root...) }},
		{"", func() (*http.Response, string) { return sendTo(t, "GET", r.admin+"/metrics", "", root...) }},
		{"caller=user:bob verb=metrics what=/metrics outcome=refused reason=DENIED", func() (*http.Response, string) {
			return get(t, "GET", r.url+"/metrics", as("bob")...)
		}},
		{"caller=anonymous verb=\"sign in\" what=/token outcome=refused reason=UNAUTHORIZED", func() (*http.Response, string) {
			return sendTo(t, "POST", r.url+"/token", "grant_type=password&username=ann&password=wrong", "Content-Type", formType)
		}},
		{"caller=anonymous verb=admin what=/api/v1/status outcome=refused reason=UNAUTHORIZED", func() (*http.Response, string) {
			return sendTo(t, "GET", r.admin+"/api/v1/status", "")
		}},
	} {
		before := len(r.log.lines())
		answer, body := c.do()
		if c.what != "" { // it is written when the request has been answered
			comesTrue(t, func() bool { return len(r.log.lines()) > before })
		}
		told := r.log.lines()[before:]
		if c.what == "" && len(told) == 0 {
			continue
		}
		first, rest, _ := strings.Cut(c.what, " ")
		if c.what == "" || len(told) != 1 || !strings.Contains(told[0], first+" client=127.0.0.1:") || !strings.HasSuffix(told[0], rest) {
			t.Errorf("%d %s: the audit says %q, want %q", answer.StatusCode, body, told, c.what)
		}
	}
}

func comesTrue(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to pass")
		}
	}
}

// TestEveryChangeHasAVerb finds an endpoint that was forgotten in the audit.
func TestEveryChangeHasAVerb(t *testing.T) {
	nothing := map[string]bool{"POST " + matchPath: true, "POST /api/v1/drill": true} // they only look
	for path, byMethod := range New(Options{Registry: newShelf(t)}).adminRoutes() {
		for method := range byMethod {
			if request := method + " " + path; changing[method] && auditVerbs[request] == "" && !nothing[request] {
				t.Errorf("%s changes something and is not in auditVerbs", request)
			}
		}
	}
}

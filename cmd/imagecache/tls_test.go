package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/crypto/bcrypt"
)

// tlsCaller is a client that shows a certificate whoever signed it, as clients that are not polite do.
type tlsCaller struct {
	http   *http.Client
	mirror string
}

func newTLSCaller(t *testing.T, mirror string, trusted *x509.Certificate, folder, name string) *tlsCaller {
	t.Helper()
	config := &tls.Config{RootCAs: x509.NewCertPool(), ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	config.RootCAs.AddCert(trusted)
	if name != "" {
		pair, err := tls.LoadX509KeyPair(filepath.Join(folder, name+".pem"), filepath.Join(folder, name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &tlsCaller{http: &http.Client{Transport: transport}, mirror: mirror}
}

// ask sends a request on a connection of its own; status 0 is a connection that was refused.
func (c *tlsCaller) ask(t *testing.T, method, path string, body []byte, header ...string) (answer *http.Response, content []byte) {
	t.Helper()
	c.http.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), method, "https://"+c.mirror+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	answer, err = c.http.Do(request)
	if err != nil {
		return &http.Response{Status: err.Error()}, nil
	}
	defer answer.Body.Close()
	if content, err = io.ReadAll(answer.Body); err != nil {
		t.Fatal(err)
	}
	return answer, content
}

func (c *tlsCaller) want(t *testing.T, status int, path string, header ...string) {
	t.Helper()
	if answer, content := c.ask(t, http.MethodGet, path, nil, header...); answer.StatusCode != status {
		t.Errorf("%s: %s %s, want %d", path, answer.Status, content, status)
	}
}

// leafOf signs a client's certificate of a template.
func (a *authority) leafOf(name string, change func(*x509.Certificate)) {
	template := &x509.Certificate{SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	change(template)
	a.sign(name, template)
}

// startTLS starts a daemon with rules for certificates, and users beside them.
func startTLS(t *testing.T, folder, rules string) *runningDaemon {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(folder, name) }
	writeFile(t, in("htpasswd"), "ann:"+string(hash)+"\n", 0o600)
	return startDaemon(t, ownFolder(t), "--tls-cert-file", in("server.pem"), "--tls-key-file", in("server.key"), "--tls-client-ca-file", in("ca.pem"),
		"--access-htpasswd-file", in("htpasswd"), "--access-rules", rules)
}

// TestWhomACertificateNames, and who is refused in the handshake.
func TestWhomACertificateNames(t *testing.T) {
	folder, elsewhere := t.TempDir(), t.TempDir()
	ca, other := newAuthority(t, folder), newAuthority(t, elsewhere)
	ca.leaf("server", x509.ExtKeyUsageServerAuth)
	spiffe := func(id string) []*url.URL {
		u, err := url.Parse(id)
		if err != nil {
			t.Fatal(err)
		}
		return []*url.URL{u}
	}
	const id = "spiffe://cluster.local/ns/ci/sa/builder"
	for name, change := range map[string]func(*x509.Certificate){
		"node-1": func(*x509.Certificate) {},
		"ann":    func(*x509.Certificate) {}, // as a user is called
		"of DNS": func(c *x509.Certificate) { c.Subject.CommonName, c.DNSNames = "ann", []string{"node-2", "node-1"} },
		"of SPIFFE": func(c *x509.Certificate) {
			c.Subject.CommonName, c.DNSNames, c.URIs = "node-1", []string{"node-1"}, spiffe(id)
		},
		"of https": func(c *x509.Certificate) { c.Subject.CommonName, c.URIs = "node-1", spiffe("https://node.example") },
		"nameless": func(c *x509.Certificate) { c.Subject.CommonName = "" },
		"grouped":  func(c *x509.Certificate) { c.Subject.Organization = []string{"dev"} },
		"expired":  func(c *x509.Certificate) { c.Subject.CommonName, c.NotAfter = "node-1", time.Now().Add(-time.Minute) },
		"future":   func(c *x509.Certificate) { c.Subject.CommonName, c.NotBefore = "node-1", time.Now().Add(time.Minute) },
		"of servers": func(c *x509.Certificate) {
			c.Subject.CommonName, c.ExtKeyUsage = "node-1", []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		},
	} {
		ca.leafOf(name, change)
	}
	other.leafOf("node-1", func(*x509.Certificate) {})
	d := startTLS(t, folder, "certificate:node-1 pull local/cn/*; certificate:node-2 pull local/dns/*; user:ann pull local/user/*; certificate:"+id+" pull local/spiffe/*; group:dev pull local/group/*")
	places := []string{"cn", "dns", "user", "spiffe", "group"}
	for name, may := range map[string]string{"": "", "node-1": "cn", "ann": "", "of DNS": "dns", "of SPIFFE": "spiffe", "of https": "cn", "grouped": "group"} {
		caller := newTLSCaller(t, d.mirror, ca.cert, folder, name)
		for _, place := range places {
			want := http.StatusForbidden
			switch {
			case place == may:
				want = http.StatusNotFound // allowed, and nothing is there
			case name == "":
				want = http.StatusUnauthorized
			}
			t.Run(name+" "+place, func(t *testing.T) { caller.want(t, want, "/v2/local/"+place+"/app/manifests/v1") })
		}
	}
	newTLSCaller(t, d.mirror, ca.cert, folder, "nameless").want(t, http.StatusUnauthorized, "/v2/local/cn/app/manifests/v1")
	for _, name := range []string{"expired", "future", "of servers"} {
		t.Run(name, func(t *testing.T) { newTLSCaller(t, d.mirror, ca.cert, folder, name).want(t, 0, "/v2/") })
	}
	newTLSCaller(t, d.mirror, ca.cert, elsewhere, "node-1").want(t, 0, "/v2/") // of another authority
	// Who shows a password beside a certificate is who the password says.
	login := http.Request{Header: http.Header{}}
	login.SetBasicAuth("ann", "secret")
	both := newTLSCaller(t, d.mirror, ca.cert, folder, "node-1")
	both.want(t, http.StatusNotFound, "/v2/local/user/app/manifests/v1", "Authorization", login.Header.Get("Authorization"))
	both.want(t, http.StatusForbidden, "/v2/local/cn/app/manifests/v1", "Authorization", login.Header.Get("Authorization"))
}

// TestAnAuthorityThatIsReplacedEnds for new connections, those that resume an old session too.
func TestAnAuthorityThatIsReplacedEnds(t *testing.T) {
	folder, elsewhere := t.TempDir(), t.TempDir()
	ca, next := newAuthority(t, folder), newAuthority(t, elsewhere)
	ca.leaf("server", x509.ExtKeyUsageServerAuth)
	ca.leafOf("node-1", func(*x509.Certificate) {})
	next.leafOf("node-1", func(*x509.Certificate) {})
	d := startTLS(t, folder, "certificate:node-1 pull local/**")
	const path = "/v2/local/app/manifests/v1"
	before := newTLSCaller(t, d.mirror, ca.cert, folder, "node-1")
	before.want(t, http.StatusNotFound, path)
	if answer, content := before.ask(t, http.MethodGet, path, nil); answer.StatusCode != http.StatusNotFound || !answer.TLS.DidResume {
		t.Fatalf("%s %s, want an answer on a session that goes on", answer.Status, content)
	}
	after := newTLSCaller(t, d.mirror, ca.cert, elsewhere, "node-1")
	after.want(t, 0, path)
	content, err := os.ReadFile(filepath.Join(elsewhere, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(folder, "ca.pem"), string(content), 0o600)
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if answer, _ := after.ask(t, http.MethodGet, path, nil); answer.StatusCode == http.StatusNotFound {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the new authority is never read")
		}
	}
	if answer, content := before.ask(t, http.MethodGet, path, nil); answer.StatusCode == http.StatusNotFound {
		t.Errorf("a certificate of the authority that is gone is taken: %s %s", answer.Status, content)
	}
}

// TestWhatTheMirrorSpeaks where it has a certificate: TLS from 1.2 on, HTTP/2 with whole blobs, and a word to who comes in the clear.
func TestWhatTheMirrorSpeaks(t *testing.T) {
	folder := t.TempDir()
	ca := newAuthority(t, folder)
	ca.leaf("server", x509.ExtKeyUsageServerAuth)
	ca.leafOf("ci", func(*x509.Certificate) {})
	d := startTLS(t, folder, "certificate:ci pull,push local/**")
	ci := newTLSCaller(t, d.mirror, ca.cert, folder, "ci")
	blob := make([]byte, 20<<20)
	rand.NewChaCha8([32]byte{}).Read(blob)
	sum := digest.FromBytes(blob)
	if answer, content := ci.ask(t, http.MethodPost, "/v2/local/app/blobs/uploads/?digest="+sum.String(), blob); answer.StatusCode != http.StatusCreated || answer.ProtoMajor != 2 {
		t.Fatalf("pushing: %s %s %s", answer.Proto, answer.Status, content)
	}
	answer, content := ci.ask(t, http.MethodGet, "/v2/local/app/blobs/"+sum.String(), nil)
	if answer.ProtoMajor != 2 || digest.FromBytes(content) != sum {
		t.Errorf("over %s come %d bytes, another blob: %s", answer.Proto, len(content), answer.Status)
	}
	answer, content = ci.ask(t, http.MethodGet, "/v2/local/app/blobs/"+sum.String(), nil, "Range", "bytes=1000000-2999999")
	if answer.StatusCode != http.StatusPartialContent || !bytes.Equal(content, blob[1_000_000:3_000_000]) {
		t.Errorf("a range: %s, %d bytes", answer.Status, len(content))
	}
	plain, err := http.Get("http://" + d.mirror + "/v2/")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Body.Close()
	said, err := io.ReadAll(plain.Body)
	if err != nil || plain.StatusCode != http.StatusBadRequest || !strings.Contains(string(said), "HTTPS") {
		t.Errorf("in the clear: %s %q, %v", plain.Status, said, err)
	}
	for version, good := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		connection, err := tls.Dial("tcp", d.mirror, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
		if (err == nil) != good {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			connection.Close()
		}
	}
}

// TestAccessAsksTheDaemon as kubectl's auth can-i does.
func TestAccessAsksTheDaemon(t *testing.T) {
	folder := t.TempDir()
	newAuthority(t, folder).leaf("server", x509.ExtKeyUsageServerAuth)
	d := startTLS(t, folder, "user:ann,group:dev pull,push local/team/**; user:prom metrics")
	environ := []string{"IMAGECACHE_ADMIN=unix://" + d.socket}
	for _, c := range []struct {
		args []string
		code int
		says []string
	}{
		{[]string{"user:ann", "push", "local/team/app:v1"}, exitDone, []string{"yes", "rule 1: user:ann,group:dev pull,push local/team/**"}},
		{[]string{"oidc:eve,group:dev", "pull", "local/team/app"}, exitDone, []string{"rule 1"}},
		{[]string{"user:ann", "pull", "nginx"}, exitFailed, []string{"docker.io/library/nginx", "no rule allows it"}},
		{[]string{"user:prom", "metrics"}, exitDone, []string{"rule 2: user:prom metrics"}},
		{[]string{"-o", "json", "user:ann", "admin"}, exitFailed, []string{`"allowed": false`}},
		{[]string{"ann", "pull", "nginx"}, exitMisuse, []string{`"ann" is no caller: want`}},
		{[]string{"user:ann", "write", "nginx"}, exitMisuse, []string{"want pull, push, delete, admin or metrics"}},
		{[]string{"user:ann", "pull"}, exitMisuse, []string{"needs a repository"}},
		{[]string{"user:ann", "admin", "nginx"}, exitMisuse, []string{"without a repository"}},
		{[]string{"user:ann", "pull", "local/Team/app"}, exitMisuse, []string{"lower case"}},
		{[]string{"user:ann"}, exitMisuse, []string{"takes a caller, a verb"}},
	} {
		code, out, errs := commandLine(t, environ, append([]string{"access"}, c.args...)...)
		for _, says := range c.says {
			if code != c.code || !strings.Contains(out+errs, says) {
				t.Errorf("%v: %d %q %q, want %d and %q", c.args, code, out, errs, c.code, says)
			}
		}
	}
	if code, _, errs := commandLine(t, []string{"IMAGECACHE_ADMIN=unix:///nowhere/socket"}, "access", "user:ann", "metrics"); code != exitFailed {
		t.Errorf("without a daemon: %d %q", code, fmt.Sprint(errs))
	}
}

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// authority signs certificates for a test.
type authority struct {
	t      *testing.T
	folder string
	key    *ecdsa.PrivateKey
	cert   *x509.Certificate
}

// newAuthority writes its own certificate to ca.pem.
func newAuthority(t *testing.T, folder string) *authority {
	t.Helper()
	a := &authority{t: t, folder: folder}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.cert = template
	a.key = a.sign("ca", template)
	return a
}

// sign writes NAME.pem and NAME.key.
func (a *authority) sign(name string, template *x509.Certificate) *ecdsa.PrivateKey {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	signer := a.key
	if signer == nil {
		signer = key
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	if template == a.cert {
		if a.cert, err = x509.ParseCertificate(cert); err != nil {
			a.t.Fatal(err)
		}
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	writeFile(a.t, filepath.Join(a.folder, name+".pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})), 0o600)
	writeFile(a.t, filepath.Join(a.folder, name+".key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})), 0o600)
	return key
}

func (a *authority) leaf(name string, use x509.ExtKeyUsage) {
	a.sign(name, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{use}})
}

// commandLine runs a command line with an environment of its own.
func commandLine(t *testing.T, environ []string, args ...string) (code int, out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c := &cli{in: strings.NewReader(""), out: &stdout, err: &stderr, environ: environ, uid: os.Getuid()}
	code = c.execute(context.Background(), args)
	return code, stdout.String(), stderr.String()
}

// TestADaemonIsAdministeredOverTheNetwork by a user with a password and by one with a certificate, and by nobody else.
func TestADaemonIsAdministeredOverTheNetwork(t *testing.T) {
	folder := t.TempDir()
	ca := newAuthority(t, folder)
	ca.leaf("server", x509.ExtKeyUsageServerAuth)
	ca.leaf("ops", x509.ExtKeyUsageClientAuth)
	ca.leaf("node-1", x509.ExtKeyUsageClientAuth)
	ca.sign("late", &x509.Certificate{SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "ops"}, NotAfter: time.Now().Add(-time.Hour)})
	newAuthority(t, filepath.Join(folder, "elsewhere")).leaf("../stranger", x509.ExtKeyUsageClientAuth)
	in := func(name string) string { return filepath.Join(folder, name) }
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, in("htpasswd"), "ann:"+string(hash)+"\nbob:"+string(hash)+"\n", 0o600)
	writeFile(t, in("password"), "secret\n", 0o600)
	writeFile(t, in("wrong"), "guessed", 0o600)
	address := registrytest.Port(t)
	d := startDaemon(t, ownFolder(t), "--tls-cert-file", in("server.pem"), "--tls-key-file", in("server.key"), "--tls-client-ca-file", in("ca.pem"),
		"--access-htpasswd-file", in("htpasswd"), "--access-rules", "user:ann,certificate:ops admin; * pull local/**", "--access-admin-listen", address)
	base := []string{"IMAGECACHE_ADMIN=https://" + address, "IMAGECACHE_ADMIN_CA_FILE=" + in("ca.pem")}
	with := func(more ...string) []string { return append(append([]string{}, base...), more...) }
	named := func(address string) []string {
		return append([]string{"IMAGECACHE_ADMIN=https://" + address}, base[1:]...)
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	login := func(user, file string) []string {
		return with("IMAGECACHE_ADMIN_USER="+user, "IMAGECACHE_ADMIN_PASSWORD_FILE="+in(file))
	}
	cert := func(name string) []string {
		return with("IMAGECACHE_ADMIN_CERT_FILE="+in(name+".pem"), "IMAGECACHE_ADMIN_KEY_FILE="+in(name+".key"))
	}
	for _, c := range []struct {
		name    string
		environ []string
		code    int
		says    string
	}{
		{"a password", login("ann", "password"), 0, ""},
		{"a certificate", cert("ops"), 0, ""},
		{"nobody", base, 1, "say who you are with IMAGECACHE_ADMIN_USER"},
		{"a wrong password", login("ann", "wrong"), 1, "this credential is not known here"},
		{"a user without the right", login("bob", "password"), 1, "no rule allows this to you"},
		{"a certificate without the right", cert("node-1"), 1, "access.rules say who has the verb admin"},
		{"nobody we trust", base[:1], 1, "IMAGECACHE_ADMIN_CA_FILE"},
		{"half a login", with("IMAGECACHE_ADMIN_USER=ann"), 2, "go together"},
		{"half a certificate", with("IMAGECACHE_ADMIN_KEY_FILE=" + in("ops.key")), 2, "go together"},
		{"a certificate of another authority", cert("stranger"), 1, "see IMAGECACHE_ADMIN_CERT_FILE"},
		{"a certificate that has expired", cert("late"), 1, "see IMAGECACHE_ADMIN_CERT_FILE"},
		{"a name that is not in its certificate", named("localhost:" + port), 1, "ask it by a name that is in its certificate"},
		{"where clients pull from", named(d.mirror), 1, "this may be where clients pull from"},
		{"without TLS", []string{"IMAGECACHE_ADMIN=http://" + address}, 1, "its address is https://" + address},
		{"nobody there", named(registrytest.Port(t)), 1, "is it running there, with access.admin_listen"},
		{"no form of an address", []string{"IMAGECACHE_ADMIN=cache.example:5051"}, 2, "https://host:port"},
		{"no loopback address", []string{"IMAGECACHE_ADMIN=http://cache.example:5051"}, 2, "https://host:port"},
	} {
		code, out, errs := commandLine(t, c.environ, "images")
		if code != c.code || !strings.Contains(errs, c.says) || (code == 0) != strings.Contains(out, "REFERENCE") {
			t.Errorf("%s: %d %q %q, want %d and %q", c.name, code, out, errs, c.code, c.says)
		}
	}
	if code, out, errs := commandLine(t, login("bob", "password"), "match", "sha256:"+strings.Repeat("0", 64)); code != 0 {
		t.Errorf("match takes no right to administrate: %d %q %q", code, out, errs)
	}
	d.signal(t, syscall.SIGTERM)
	if code := d.wait(t); code != 0 {
		t.Errorf("the daemon ends with %d: %s", code, d.log)
	}
	for _, line := range []string{"msg=audit caller=user:bob client=127.0.0.1:", "outcome=refused reason=DENIED"} {
		if !strings.Contains(d.log.String(), line) {
			t.Errorf("the log lacks %q", line)
		}
	}
	if strings.Contains(d.log.String(), "secret") {
		t.Error("the log tells a password")
	}
}

func TestNobodyInParticularCannotAdministrateOverTheNetwork(t *testing.T) {
	folder := t.TempDir()
	newAuthority(t, folder).leaf("server", x509.ExtKeyUsageServerAuth)
	pair := []string{"--tls-cert-file", folder + "/server.pem", "--tls-key-file", folder + "/server.key"}
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"no TLS":     {nil, "admin_listen needs TLS"},
		"no rule":    {append([]string{"--access-rules", "* pull **"}, pair...), "admin_listen needs a rule"},
		"no sign-in": {append([]string{"--access-rules", "* admin"}, pair...), "admin_listen needs callers who can show who they are"},
		"no address": {[]string{"--access-admin-listen", "nowhere"}, "want host:port"},
		"--admin":    {[]string{"--admin", "https://127.0.0.1:5051"}, "set access.admin_listen"},
	} {
		args := append([]string{"serve", "--config", os.DevNull, "--root", filepath.Join(folder, "root"), "--listen", "127.0.0.1:0", "--access-admin-listen", "127.0.0.1:0"}, c.args...)
		code, _, errs := commandLine(t, []string{"HOME=" + folder}, args...)
		if code == 0 || !strings.Contains(errs, c.says) {
			t.Errorf("%s: %d %q, want %q", name, code, errs, c.says)
		}
	}
}

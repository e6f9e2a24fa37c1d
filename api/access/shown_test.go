package access

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func newShown(t *testing.T) (g *Gate, withCertificate *tls.ConnectionState) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "htpasswd")
	write(t, file, line(t, "ann", "secret"), time.Now())
	g, err := New(Options{HtpasswdFile: file, Certificates: true})
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "node-1"}, NotAfter: time.Now().Add(time.Hour)}
	return g, &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}}
}

// TestTwoCredentialsAreNone: who is in front of us may have looked at the other.
func TestTwoCredentialsAreNone(t *testing.T) {
	g, certificate := newShown(t)
	good := asking("ann", "secret", "").Header.Get("Authorization")
	for _, values := range [][]string{{good, good}, {good, ""}, {"", good}, {good, "Bearer a.b.c"}, {"", ""}} {
		r := asking("", "", "")
		r.Header["Authorization"] = values
		wantRefused(t, g, r)
		r.TLS = certificate
		wantRefused(t, g, r)
	}
}

// TestAnEmptyLoginLeavesTheCertificate: some clients send one when they have none.
func TestAnEmptyLoginLeavesTheCertificate(t *testing.T) {
	g, certificate := newShown(t)
	r := asking("", "", "")
	r.Header.Set("Authorization", "Basic Og==")
	wantCaller(t, g, r, Anonymous)
	r.TLS = certificate
	wantCaller(t, g, r, "certificate:node-1")
	both := asking("ann", "secret", "")
	both.TLS = certificate
	wantCaller(t, g, both, "user:ann")
	wrong := asking("ann", "wrong", "")
	wrong.TLS = certificate
	wantRefused(t, g, wrong)
}

// TestAFileOfTheSameTimeAndSizeIsAnother: hashes of one cost are equally long,
// and some systems give all files one time.
func TestAFileOfTheSameTimeAndSizeIsAnother(t *testing.T) {
	at, was := &clock{time.Now()}, time.Unix(1, 0)
	file := filepath.Join(t.TempDir(), "htpasswd")
	write(t, file, line(t, "ann", "secret"), was)
	g, err := New(Options{HtpasswdFile: file, Now: at.now})
	if err != nil {
		t.Fatal(err)
	}
	wantCaller(t, g, asking("ann", "secret", ""), "user:ann")
	write(t, file+".new", line(t, "ann", "other"), was)
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	at.at = at.at.Add(2 * lookEvery)
	wantRefused(t, g, asking("ann", "secret", ""))
	wantCaller(t, g, asking("ann", "other", ""), "user:ann")
}

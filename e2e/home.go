//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/opencontainers/go-digest"
	"golang.org/x/crypto/bcrypt"
)

// home is a daemon that images are pushed to. It has an upstream that nobody answers for: nothing of what is pushed comes from elsewhere.
type home struct {
	*daemon
	dir  string // of the clients: their settings and logins
	ca   string // path of the certificate that clients trust; "" with plain http
	user string // who pushes, "" for nobody in particular
}

const (
	homeUser     = "ann"
	homePassword = "a password of hers"
)

// startHome starts a home on plain http, open to all.
func startHome(t *testing.T) *home {
	t.Helper()
	h := &home{daemon: newDaemon(t, "http://127.0.0.1:1"), dir: t.TempDir()}
	h.daemon.start(t)
	write(t, filepath.Join(h.dir, "config.json"), []byte("{}"))
	return h
}

// startLockedHome starts a home with TLS that only one user may push to and read.
func startLockedHome(t *testing.T) *home {
	t.Helper()
	dir := t.TempDir()
	h := &home{dir: dir, ca: filepath.Join(dir, "ca.pem"), user: homeUser}
	key, passwords := filepath.Join(dir, "key.pem"), filepath.Join(dir, "htpasswd")
	writeCertificate(t, h.ca, key)
	hash, err := bcrypt.GenerateFromPassword([]byte(homePassword), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	write(t, passwords, fmt.Appendf(nil, "%s:%s\n", homeUser, hash))
	h.daemon = newDaemon(t, "http://127.0.0.1:1", fmt.Sprintf(
		"\n[tls]\ncert_file = %q\nkey_file = %q\n\n[access]\nhtpasswd_file = %q\nrules = [\"user:%s pull,push,delete local/**\"]\n", h.ca, key, passwords, homeUser))
	h.web = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: h.roots(t)}}}
	h.daemon.start(t)
	write(t, filepath.Join(dir, "config.json"), fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, h.addr, base64.StdEncoding.EncodeToString([]byte(homeUser+":"+homePassword))))
	return h
}

// writeCertificate writes a certificate for 127.0.0.1 that signs itself, which net/http/httptest has, and its key.
func writeCertificate(t *testing.T, path, key string) {
	t.Helper()
	server := httptest.NewTLSServer(http.NotFoundHandler())
	certificate := server.TLS.Certificates[0]
	server.Close()
	private, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}))
	write(t, key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// roots are the certificates that clients trust, nil with plain http.
func (h *home) roots(t *testing.T) *x509.CertPool {
	t.Helper()
	if h.ca == "" {
		return nil
	}
	return rootsOf(t, h.ca)
}

// ref is a reference in the home: "team/app:v1".
func (h *home) ref(what string) string { return h.addr + "/local/" + what }

// run runs a client with the logins and certificates of this home, and gives what it printed.
func (h *home) run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := h.try(t, program, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(program), strings.Join(args, " "), err, out)
	}
	return out
}

// try is run for a client that may fail.
func (h *home) try(t *testing.T, program string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "HOME="+h.dir, "DOCKER_CONFIG="+h.dir, "REGISTRY_AUTH_FILE="+filepath.Join(h.dir, "config.json"))
	if h.ca != "" {
		cmd.Env = append(cmd.Env, "SSL_CERT_FILE="+h.ca)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stderr.String() + stdout.String(), err
	}
	return stdout.String(), nil
}

// tlsVerify is the option of skopeo and its kin.
func (h *home) tlsVerify(option string) string { return fmt.Sprintf("--%s=%t", option, h.ca != "") }

// requireMounted looks into the log of the daemon: POST answered with 201 is a blob that was mounted, for no client here sends one with it.
func (h *home) requireMounted(t *testing.T, repository string, blobs int) {
	t.Helper()
	mounts := regexp.MustCompile(`method=POST path=/v2/local/` + regexp.QuoteMeta(repository) + `/blobs/uploads/ status=201`)
	eventually(t, "the blobs of "+repository+" are mounted", func() error { // the line is written behind the answer
		log, err := os.ReadFile(h.proc.log)
		if err != nil {
			return err
		}
		if n := len(mounts.FindAll(log, -1)); n < blobs {
			return fmt.Errorf("%d of %d", n, blobs)
		}
		return nil
	})
}

// requireGone holds that a manifest is not there any more, by tag and by digest.
func (h *home) requireGone(t *testing.T, repository, tag string, d digest.Digest) {
	t.Helper()
	for _, reference := range []string{tag, d.String()} {
		if status, err := h.head(t, repository, reference); err != nil || status != http.StatusNotFound {
			t.Errorf("%s of %s after its deletion: %d, %v", reference, repository, status, err)
		}
	}
}

func (h *home) head(t *testing.T, repository, reference string) (int, error) {
	t.Helper()
	web, scheme := http.DefaultClient, "http"
	if h.web != nil {
		web, scheme = h.web, "https"
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodHead, scheme+"://"+h.addr+"/v2/local/"+repository+"/manifests/"+reference, nil)
	if err != nil {
		return 0, err
	}
	if h.user != "" {
		req.SetBasicAuth(homeUser, homePassword)
	}
	resp, err := web.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// layoutOf writes an image as an OCI layout, in which it is called v1.
func layoutOf(t *testing.T, image v1.Image) string {
	t.Helper()
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = path.AppendImage(image, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "v1"}))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// layoutDigest is the digest of the one image in a layout.
func layoutDigest(dir string) (digest.Digest, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return "", err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return "", err
	}
	if len(manifest.Manifests) != 1 {
		return "", errors.New("not one image")
	}
	return digest.Digest(manifest.Manifests[0].Digest.String()), nil
}

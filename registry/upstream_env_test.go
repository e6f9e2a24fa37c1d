package registry

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// upstreamOf is an upstream before a lying registry, without the docker
// config of whoever runs the test.
func upstreamOf(t *testing.T, r *registrytest.Registry, change ...func(*UpstreamOptions)) *upstream {
	t.Helper()
	return upstreamIn(t, upstreamEnv{}, r, change...)
}

func upstreamIn(t *testing.T, env upstreamEnv, r *registrytest.Registry, change ...func(*UpstreamOptions)) *upstream {
	t.Helper()
	if os.Getenv("DOCKER_CONFIG") == "" {
		noDockerConfig(t)
	}
	o := UpstreamOptions{Name: r.Host(), URL: r.URL(), CAFile: r.CAFile()}
	for _, c := range change {
		c(&o)
	}
	u, err := newUpstream(o, env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.close)
	return u
}

func noDockerConfig(t *testing.T) {
	t.Helper()
	empty := t.TempDir()
	for _, name := range []string{"HOME", "DOCKER_CONFIG", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"} {
		t.Setenv(name, empty)
	}
	t.Setenv("REGISTRY_AUTH_FILE", "")
}

// withPassword configures a user and a file with the password.
func withPassword(t *testing.T, password string) func(*UpstreamOptions) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "password")
	writeFile(t, path, password+"\n")
	return func(o *UpstreamOptions) { o.Username, o.PasswordFile = "alice", path }
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// wantCode fails unless err is an *Error of that code, and returns it.
func wantCode(t testing.TB, err error, want Code) *Error {
	t.Helper()
	var ours *Error
	if !errors.As(err, &ours) {
		t.Fatalf("got error %v, want one of code %s", err, want)
	}
	if ours.Code != want {
		t.Fatalf("got code %s, want %s: %v", ours.Code, want, err)
	}
	return ours
}

func tagged(r *registrytest.Registry, path, tag string) Reference {
	return Reference{Repository: Repository{Registry: r.Host(), Path: path}, Tag: tag}
}

func noErr(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func readAll(t *testing.T, r io.ReadCloser) []byte {
	t.Helper()
	defer r.Close()
	b, err := io.ReadAll(r)
	noErr(t, err)
	return b
}

// logTo is a log that a test can read afterwards.
func logTo(b *bytes.Buffer) *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

func mustNotContain(t *testing.T, text string, secrets ...string) {
	t.Helper()
	for _, s := range secrets {
		if strings.Contains(text, s) {
			t.Errorf("%q holds the secret %q", text, s)
		}
	}
}

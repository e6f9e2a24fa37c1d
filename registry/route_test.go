package registry

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRoutes(t *testing.T) {
	r, err := newRoutes([]UpstreamOptions{
		{Name: "index.docker.io", TagTTL: 5},
		{Name: "Registry.Example:5000", URL: "http://127.0.0.1:1"},
	}, upstreamEnv{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	for name, want := range map[string]string{
		"docker.io": "https://registry-1.docker.io", "registry-1.docker.io": "https://registry-1.docker.io",
		"quay.io": "https://quay.io", "registry.example:5000": "http://127.0.0.1:1",
	} {
		u, err := r.upstream(name)
		if err != nil || u.options.URL != want {
			t.Errorf("%s: %v, %v", name, u, err)
		}
	}
	if hub, _ := r.upstream("docker.io"); hub.options.TagTTL != 5 {
		t.Error("the configured docker.io did not replace the well-known one")
	}
	if n := len(r.all()); n != len(WellKnown())+2 { // with the home
		t.Errorf("%d upstreams", n)
	}
	_, err = r.upstream("nowhere.example")
	var ours *Error
	if !errors.As(err, &ours) || ours.Code != CodeNameUnknown ||
		!strings.Contains(err.Error(), `[upstreams."nowhere.example"]`) || !strings.Contains(err.Error(), "--upstream") {
		t.Errorf("got %v", err)
	}
	if _, err := newRoutes([]UpstreamOptions{{Name: "docker.io"}, {Name: "index.docker.io"}}, upstreamEnv{}); err == nil {
		t.Error("one registry under two names is taken")
	}
	for _, name := range []string{LocalHome, "LOCAL"} {
		if _, err := newRoutes([]UpstreamOptions{{Name: name, URL: "https://x.example"}}, upstreamEnv{}); err == nil || !strings.Contains(err.Error(), "home") {
			t.Errorf("an upstream takes the name of the home: %v", err)
		}
	}
}

func TestUpstreamOptionsAreChecked(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, o := range map[string]UpstreamOptions{
		"neither http":        {URL: "ftp://x"},
		"begins with neither": {URL: "registry.example"},
		"no host":             {URL: "https://"},
		"more than a scheme":  {URL: "https://x/v2"},
		"more than a":         {URL: "https://x?a=b"},
		"holds a user":        {URL: "https://alice:hunter2@x"},
		"no such file":        {CAFile: filepath.Join(t.TempDir(), "none")},
		"no certificate":      {CAFile: empty},
		"need each other":     {Username: "alice"},
		"is empty":            {Username: "alice", PasswordFile: empty},
		"exclude each other":  {Username: "alice", CredentialHelper: "x"},
		"not the name of a h": {CredentialHelper: "../x"},
		"executable file not": {CredentialHelper: "there-is-none"},
	} {
		o.Name = "registry.example"
		_, err := newUpstream(o, upstreamEnv{})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), o.Name) {
			t.Errorf("%+v: got %v, want one with %q", o, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows a password: %v", err)
		}
	}
	for _, name := range []string{"a/b", "", "registry"} {
		if _, err := newUpstream(UpstreamOptions{Name: name}, upstreamEnv{}); err == nil {
			t.Errorf("the name %q is taken", name)
		}
	}
}

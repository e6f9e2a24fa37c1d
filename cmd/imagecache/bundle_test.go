package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	image "github.com/opencontainers/image-spec/specs-go/v1"
	runtime "github.com/opencontainers/runtime-spec/specs-go"
)

// newImageRoot makes a root filesystem with users and groups.
func newImageRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	writeFile(t, filepath.Join(root, "etc/passwd"), "# users\nroot:x:0:0:root:/root:/bin/sh\nshort:x\nbad:x:nobody:1\napp:x:1000:1001::/home:/bin/sh\n1002:x:7:8::/:\n", 0o644)
	writeFile(t, filepath.Join(root, "etc/group"), "root:x:0:\napp:x:1001:\nextra:x:77:root,app\nmore:x:78:app,app\n", 0o644)
	return root
}

func TestUsersOfABundle(t *testing.T) {
	root := newImageRoot(t)
	for text, want := range map[string]runtime.User{
		"":          {AdditionalGids: []uint32{77}},
		"root":      {AdditionalGids: []uint32{77}},
		"app":       {UID: 1000, GID: 1001, AdditionalGids: []uint32{77, 78}},
		"1000":      {UID: 1000, GID: 1001, AdditionalGids: []uint32{77, 78}},
		"5000":      {UID: 5000},
		"1002":      {UID: 7, GID: 8}, // a name goes before a number
		"app:extra": {UID: 1000, GID: 77},
		"5000:6000": {UID: 5000, GID: 6000},
		":app":      {GID: 1001},
	} {
		if got, err := resolveUser(root, text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"absent", "app:absent", "-1", "4294967295", "app:"} {
		if got, err := resolveUser(root, text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
	if got, err := resolveUser(t.TempDir(), "12:13"); err != nil || got.UID != 12 || got.GID != 13 {
		t.Errorf("without files: %+v, %v", got, err)
	}
}

// A link in the image leads to a file of the image, never of the host.
func TestUsersAreLookedForInTheImage(t *testing.T) {
	root, host := newImageRoot(t), filepath.Join(t.TempDir(), "passwd")
	writeFile(t, host, "intruder:x:4711:4711::/:\n", 0o644)
	for _, link := range []string{host, "../../../../../../../../../.." + host} {
		if err := os.Remove(filepath.Join(root, "etc/passwd")); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(link, filepath.Join(root, "etc/passwd")); err != nil {
			t.Fatal(err)
		}
		if got, err := resolveUser(root, "intruder"); err == nil {
			t.Errorf("through %s came %+v", link, got)
		}
	}
}

func TestSettingsOfABundle(t *testing.T) {
	created := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	config := image.Image{Created: &created, Author: "ann", Platform: image.Platform{OS: "linux", Architecture: "amd64"}}
	config.Config = image.ImageConfig{
		Entrypoint: []string{"/entry"}, Cmd: []string{"cmd"}, WorkingDir: "srv", Env: []string{"A=1"}, StopSignal: "SIGINT",
		ExposedPorts: map[string]struct{}{"80/tcp": {}, "443/tcp": {}}, Labels: map[string]string{"l": "v", "org.opencontainers.image.author": "kim"},
	}
	root := newImageRoot(t)
	spec, err := runtimeSpec(config, root, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := spec.Process
	if got := strings.Join(p.Args, " "); got != "/entry cmd" || p.Cwd != "/srv" || !reflect.DeepEqual(p.Env, []string{"PATH=" + defaultPath, "A=1"}) {
		t.Errorf("process %+v", p)
	}
	if len(p.Capabilities.Effective) == 0 || len(p.Capabilities.Ambient) > 0 || !p.NoNewPrivileges {
		t.Errorf("capabilities %+v", p.Capabilities)
	}
	want := map[string]string{
		"l": "v", "org.opencontainers.image.author": "kim", "org.opencontainers.image.os": "linux", "org.opencontainers.image.architecture": "amd64",
		"org.opencontainers.image.created": "2026-01-02T03:04:05Z", "org.opencontainers.image.stopSignal": "SIGINT",
		"org.opencontainers.image.exposedPorts": "443/tcp,80/tcp",
	}
	if !reflect.DeepEqual(spec.Annotations, want) {
		t.Errorf("annotations %v", spec.Annotations)
	}
	if spec, err = runtimeSpec(config, root, []string{"other", "args"}); err != nil || strings.Join(spec.Process.Args, " ") != "/entry other args" {
		t.Errorf("with arguments: %+v, %v", spec, err)
	}
	config.Config.User, config.Config.Entrypoint, config.Config.Env = "app", nil, []string{"PATH=/p"}
	if spec, err = runtimeSpec(config, root, nil); err != nil || len(spec.Process.Capabilities.Effective) > 0 || !reflect.DeepEqual(spec.Process.Env, []string{"PATH=/p"}) {
		t.Errorf("as a user: %+v, %v", spec.Process, err)
	}
	config.Config.Cmd = nil
	if _, err := runtimeSpec(config, root, nil); err == nil {
		t.Error("a bundle without a command is made")
	}
}

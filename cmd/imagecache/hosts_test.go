package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/log"
)

var ours = hostsMirror{url: "http://127.0.0.1:5050", dialTimeout: time.Second}

// containerdHosts reads a folder with containerd's own code.
func containerdHosts(t *testing.T, configPath, registry string) []docker.RegistryHost {
	t.Helper()
	if err := log.SetLevel("panic"); err != nil {
		t.Fatal(err)
	}
	hosts, err := config.ConfigureHosts(t.Context(), config.HostOptions{HostDir: config.HostDirFromRoot(configPath)})(registry)
	if err != nil {
		t.Fatalf("containerd cannot use it: %v", err)
	}
	return hosts
}

func hostNames(hosts []docker.RegistryHost) string {
	var names []string
	for _, h := range hosts {
		names = append(names, h.Scheme+"://"+h.Host+h.Path)
	}
	return strings.Join(names, " ")
}

// existingHosts is a file as an administrator left it, with everything that must outlive install.
const existingHosts = `# mirrors of team A
server = "https://registry-1.docker.io" # the real one
skip_verify = true

# our own mirror, ask Kim
[host."https://mirror.example:8443"]
  capabilities = [
    "pull", # only this
    "resolve",
  ]
  skip_verify = true
  future_key = "kept"
  [host."https://mirror.example:8443".header]
    X-Team = ["a", "b"]

[host."http://10.0.0.9:5000"]
	capabilities = ["pull"]`

func TestMergeKeepsEveryLineAndComesFirst(t *testing.T) {
	merged, err := mergeHosts([]byte(existingHosts), ours)
	if err != nil {
		t.Fatal(err)
	}
	kept := strings.Split(strings.Replace(string(merged), ours.table(), "", 1), "\n")
	for line := range strings.SplitSeq(existingHosts, "\n") {
		if !slices.Contains(kept, line) {
			t.Errorf("lost the line %q", line)
		}
	}
	folder := filepath.Join(t.TempDir(), "docker.io")
	writeFile(t, filepath.Join(folder, hostsName), string(merged), 0o644)
	hosts := containerdHosts(t, filepath.Dir(folder), "docker.io")
	want := "http://127.0.0.1:5050/v2 https://mirror.example:8443/v2 http://10.0.0.9:5000/v2 https://registry-1.docker.io/v2"
	if got := hostNames(hosts); got != want {
		t.Fatalf("containerd tries %s\nwant %s", got, want)
	}
	if caps := hosts[0].Capabilities; caps != docker.HostCapabilityPull|docker.HostCapabilityResolve {
		t.Errorf("ours is for %v", capabilities(caps))
	}
	if got := hosts[1].Header["X-Team"]; len(got) != 2 {
		t.Errorf("the other mirror's header is %q", got)
	}
}

func TestMergeIsIdempotent(t *testing.T) {
	for name, original := range map[string]string{
		"hosts": existingHosts, "no hosts": "server = \"https://a.example\"", "empty lines": "\n\n", "Windows line ends": "server = \"https://a\"\r\n\r\n[host.\"https://b\"]\r\n",
	} {
		once, err := mergeHosts([]byte(original), ours)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		twice, err := mergeHosts(once, ours)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if string(once) != string(twice) {
			t.Errorf("%s: the second time it is\n%s\nnot\n%s", name, twice, once)
		}
	}
}

func TestMergeMovesOurOwnTableToTheFront(t *testing.T) {
	original := `server = "https://a.example"

[host."https://other.example"]

# by hand
[host."http://127.0.0.1:5050"]
  capabilities = [
    "pull",
  ] # for now
  # a header we need
  header = {X-A = "b"}
`
	merged, err := mergeHosts([]byte(original), ours)
	if err != nil {
		t.Fatal(err)
	}
	want := `server = "https://a.example"

# by hand
[host."http://127.0.0.1:5050"]
  capabilities = ["pull", "resolve"]
  dial_timeout = "1s"
  # a header we need
  header = {X-A = "b"}

[host."https://other.example"]

`
	if string(merged) != want {
		t.Errorf("got\n%s\nwant\n%s", merged, want)
	}
}

func TestMergeRefusesWhatItCannotDoRight(t *testing.T) {
	for name, original := range map[string]string{
		"broken TOML":     "server = \n",
		"hosts in a line": "host = {\"https://a\" = {capabilities = [\"pull\"]}}\n",
		"dotted hosts":    "host.\"https://a\".capabilities = [\"pull\"]\n",
	} {
		if merged, err := mergeHosts([]byte(original), ours); err == nil {
			t.Errorf("%s: made\n%s", name, merged)
		}
	}
}

func TestContainerdReadsWhatIsWrittenWhereNothingStood(t *testing.T) {
	for _, tt := range []struct {
		install, pull, folder, want string
	}{
		{"", "quay.io", "_default", "http://127.0.0.1:5050/v2 https://quay.io/v2"},
		{"", "docker.io", "_default", "http://127.0.0.1:5050/v2 https://registry-1.docker.io/v2"},
		// Of a registry on this machine containerd finds out itself: https first, then http.
		{"", "127.0.0.1:5000", "_default", "http://127.0.0.1:5050/v2 https://127.0.0.1:5000/v2"},
		{"docker.io", "docker.io", "docker.io", "http://127.0.0.1:5050/v2 https://registry-1.docker.io/v2"},
		{"docker.io", "quay.io", "docker.io", "https://quay.io/v2"},
		{"r.example:5000", "r.example:5000", "r.example_5000_", "http://127.0.0.1:5050/v2 https://r.example:5000/v2"},
		{"127.0.0.1:5000", "127.0.0.1:5000", "127.0.0.1_5000_", "http://127.0.0.1:5050/v2 https://127.0.0.1:5000/v2"},
		{"localhost", "localhost", "localhost", "http://127.0.0.1:5050/v2 https://localhost/v2"},
	} {
		t.Run(tt.install+" "+tt.pull, func(t *testing.T) {
			configPath := filepath.Join(t.TempDir(), "certs.d")
			mustInstall(t, configPath, tt.install, ours)
			if !exists(filepath.Join(configPath, tt.folder, hostsName)) {
				t.Errorf("nothing in %s", tt.folder)
			}
			if got := hostNames(containerdHosts(t, configPath, tt.pull)); got != tt.want {
				t.Errorf("containerd tries %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestAFolderWithTheOldColonIsUsedAsItIs(t *testing.T) {
	configPath := t.TempDir()
	writeFile(t, filepath.Join(configPath, "r.example:5000", hostsName), "server = \"https://elsewhere.example\"\n", 0o644)
	mustInstall(t, configPath, "r.example:5000", ours)
	if got, want := hostNames(containerdHosts(t, configPath, "r.example:5000")), "http://127.0.0.1:5050/v2 https://elsewhere.example/v2"; got != want {
		t.Errorf("containerd tries %s\nwant %s", got, want)
	}
}

func TestCertificatesOfAFolderAreNotForgotten(t *testing.T) {
	folder := t.TempDir()
	for _, name := range []string{"ca.crt", "a.cert", "a.key", "whole.cert"} {
		writeFile(t, filepath.Join(folder, name), "", 0o600)
	}
	lines, err := folderCertificates(folder)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(lines, "\n"), "ca = [\"ca.crt\"]\nclient = [[\"a.cert\", \"a.key\"], \"whole.cert\"]"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if fresh := freshHosts("r.example", ours, lines); !strings.Contains(string(fresh), lines[0]+"\n"+lines[1]+"\n") {
		t.Errorf("lost in\n%s", fresh)
	}
}

// errKilled stands for kill -9 between two steps.
var errKilled = errors.New("killed")

// killAt gives steps that end at the nth of them, and tells whether there was one.
func killAt(n int) (reach steps, reached *bool) {
	reached = new(bool)
	return func(string) error {
		if n--; n < 0 {
			*reached = true
			return errKilled
		}
		return nil
	}, reached
}

// standings are the ways in which a folder can be before install.
func standings() map[string]func(t *testing.T, configPath, folder string) {
	return map[string]func(t *testing.T, configPath, folder string){
		"no folder at all": func(*testing.T, string, string) {},
		"no folder of the registry": func(t *testing.T, configPath, _ string) {
			mkdir(t, configPath)
		},
		"an empty folder": func(t *testing.T, _, folder string) { mkdir(t, folder) },
		"a folder with a certificate": func(t *testing.T, _, folder string) {
			writeFile(t, filepath.Join(folder, "x.key"), "k", 0o600)
		},
		"a file": func(t *testing.T, _, folder string) {
			writeFile(t, filepath.Join(folder, hostsName), existingHosts, 0o600)
		},
		"an empty file of odd mode": func(t *testing.T, _, folder string) {
			writeFile(t, filepath.Join(folder, hostsName), "", 0o464)
		},
	}
}

func TestUninstallPutsBackExactlyWhatStoodThere(t *testing.T) {
	for name, stand := range standings() {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			configPath := filepath.Join(top, "etc", "certs.d")
			stand(t, configPath, filepath.Join(configPath, "docker.io"))
			before := snapshot(t, top)
			for _, mirror := range []hostsMirror{ours, ours, {url: "http://127.0.0.1:6000", dialTimeout: 2 * time.Second}} {
				mustInstall(t, configPath, "docker.io", mirror)
				if got := hostNames(containerdHosts(t, configPath, "docker.io")); !strings.HasPrefix(got, mirror.url+"/v2 ") {
					t.Errorf("containerd tries %s", got)
				}
			}
			mustUninstall(t, configPath)
			if after := snapshot(t, top); after != before {
				t.Errorf("it was\n%s\nand is\n%s", before, after)
			}
		})
	}
}

func TestInstallKeepsModeOfTheFile(t *testing.T) {
	configPath := t.TempDir()
	path := filepath.Join(configPath, "docker.io", hostsName)
	writeFile(t, path, existingHosts, 0o640)
	mustInstall(t, configPath, "docker.io", ours)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o640 {
		t.Errorf("mode is %o", info.Mode().Perm())
	}
}

// Killed between any two steps of install or of a second install, both going on and giving up work.
func TestAKillBetweenStepsLosesNothing(t *testing.T) {
	for name, stand := range standings() {
		for _, second := range []bool{false, true} {
			for n := range 8 {
				top := t.TempDir()
				configPath := filepath.Join(top, "etc", "certs.d")
				stand(t, configPath, filepath.Join(configPath, "docker.io"))
				before := snapshot(t, top)
				mirror := ours
				if second {
					mustInstall(t, configPath, "docker.io", ours)
					mirror = hostsMirror{url: "http://127.0.0.1:6000", dialTimeout: time.Second}
				}
				reach, reached := killAt(n)
				if err := tryInstall(configPath, "docker.io", mirror, reach); err != nil && !errors.Is(err, errKilled) {
					t.Fatal(err)
				}
				if !*reached {
					break
				}
				what := fmt.Sprintf("%s, second %v, killed at step %d", name, second, n)
				if n%2 == 0 || second {
					mustInstall(t, configPath, "docker.io", mirror)
					if got := hostNames(containerdHosts(t, configPath, "docker.io")); !strings.HasPrefix(got, mirror.url+"/v2 ") {
						t.Errorf("%s: containerd tries %s", what, got)
					}
				}
				mustUninstall(t, configPath)
				if after := snapshot(t, top); after != before {
					t.Errorf("%s: it was\n%s\nand is\n%s", what, before, after)
				}
			}
		}
	}
}

func TestAKillInUninstallIsFinishedByTheNext(t *testing.T) {
	for name, stand := range standings() {
		for n := range 4 {
			top := t.TempDir()
			configPath := filepath.Join(top, "etc", "certs.d")
			stand(t, configPath, filepath.Join(configPath, "docker.io"))
			before := snapshot(t, top)
			mustInstall(t, configPath, "docker.io", ours)
			reach, reached := killAt(n)
			h, err := readHostsFile(filepath.Join(configPath, "docker.io"), "")
			if err != nil {
				t.Fatal(err)
			}
			if err := h.restore(reach); err != nil && !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			if !*reached {
				break
			}
			mustUninstall(t, configPath)
			if after := snapshot(t, top); after != before {
				t.Errorf("%s, killed at step %d: it was\n%s\nand is\n%s", name, n, before, after)
			}
		}
	}
}

func TestWhatIsALinkIsRefused(t *testing.T) {
	configPath := t.TempDir()
	writeFile(t, filepath.Join(configPath, "kept", hostsName), existingHosts, 0o644)
	mkdir(t, filepath.Join(configPath, "docker.io"))
	if err := os.Symlink("../kept/hosts.toml", filepath.Join(configPath, "docker.io", hostsName)); err != nil {
		t.Fatal(err)
	}
	if err := tryInstall(configPath, "docker.io", ours, nil); err == nil || !strings.Contains(err.Error(), "link") {
		t.Errorf("got %v", err)
	}
}

func TestASavedFileWithoutItsRecordIsNotOverwritten(t *testing.T) {
	configPath := t.TempDir()
	writeFile(t, filepath.Join(configPath, "docker.io", hostsName), existingHosts, 0o644)
	saved := filepath.Join(configPath, "docker.io", hostsName+suffixSaved)
	writeFile(t, saved, "the only copy", 0o644)
	if err := tryInstall(configPath, "docker.io", ours, nil); err == nil {
		t.Error("installed")
	}
	if content, _ := os.ReadFile(saved); string(content) != "the only copy" {
		t.Errorf("it holds %q", content)
	}
}

func tryInstall(configPath, registry string, mirror hostsMirror, reach steps) error {
	h, err := readHostsFile(hostsFolder(configPath, registry), registry)
	if err != nil {
		return err
	}
	desired, err := desiredHosts(h, mirror)
	if err != nil || string(desired) == string(h.content) {
		return err
	}
	return h.install(desired, reach)
}

func mustInstall(t *testing.T, configPath, registry string, mirror hostsMirror) {
	t.Helper()
	if err := tryInstall(configPath, registry, mirror, nil); err != nil {
		t.Fatal(err)
	}
}

// mustUninstall runs the whole command, as its sweeping is part of the promise.
func mustUninstall(t *testing.T, configPath string) {
	t.Helper()
	var said strings.Builder
	c := &cli{in: strings.NewReader(""), out: &said, err: &said}
	if code := c.execute(t.Context(), []string{"containerd", "uninstall", "--yes", "--config-path", configPath}); code != exitDone {
		t.Fatalf("exit status %d: %s", code, said.String())
	}
}

func mkdir(t *testing.T, folder string) {
	t.Helper()
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
}

func writeFile(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	mkdir(t, filepath.Dir(path))
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// snapshot is everything below a folder: names, modes and bytes.
func snapshot(t *testing.T, top string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %v", name, info.Mode())
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %q", content)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

//go:build e2e && clients

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/bcrypt"
)

// dockerVersion is one of the Dockers that the tests run.
type dockerVersion struct {
	name  string
	dir   string          // of dockerd
	path  string          // where it looks for containerd and runc
	layer types.MediaType // the newest compression that it knows
}

// dockers are Debian's, which keeps images in its own store and knows no OCI layout, and one that keeps them in containerd's.
func dockers() []dockerVersion {
	old := filepath.Join(filepath.Dir(built("")), "docker", "usr")
	return []dockerVersion{
		{"20.10", filepath.Join(old, "sbin"), filepath.Join(old, "bin") + ":/usr/bin:/usr/sbin:/bin:/sbin", types.OCILayer},
		{"29", built(""), built("") + ":/usr/bin:/usr/sbin:/bin:/sbin", types.OCILayerZStd},
	}
}

// docker is a daemon of its own: nothing of it is shared with another one on the machine but runc.
type docker struct{ dir, program string }

// startDocker starts a Docker with nothing in it, whose mirror of Docker Hub is an imagecache.
func startDocker(t *testing.T, version dockerVersion, mirror *daemon) *docker {
	t.Helper()
	dir, err := os.MkdirTemp(scratch, "k-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // runs after the daemon has ended
		unmountUnder(t, dir)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	k := &docker{dir: dir, program: requireProgram(t, filepath.Join(filepath.Dir(built("")), "docker", "usr", "bin", "docker"))}
	settings := filepath.Join(dir, "daemon.json")
	write(t, settings, fmt.Appendf(nil, `{"registry-mirrors":["http://%s"],"userland-proxy":false}`, mirror.addr))
	args := []string{"--config-file", settings, "--data-root", filepath.Join(dir, "d"), "--exec-root", filepath.Join(dir, "e"), "--pidfile", filepath.Join(dir, "p"),
		"--host", k.host(), "--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"}
	if version.name == "20.10" {
		args = append(args, "--storage-driver=vfs") // which works on every file system
	}
	cmd := exec.Command(requireProgram(t, filepath.Join(version.dir, "dockerd")), args...)
	cmd.Env = []string{"PATH=" + version.path, "HOME=" + dir, "TMPDIR=" + dir}
	proc := start(t, "dockerd-"+version.name, cmd)
	eventually(t, "docker "+version.name+" answers", func() error {
		if proc.ended() {
			t.Fatalf("dockerd %s has ended", version.name)
		}
		_, err := k.try(t, "", "version")
		return err
	})
	return k
}

func (k *docker) host() string { return "unix://" + filepath.Join(k.dir, "s") }

// try runs docker's command, with something on its standard input.
func (k *docker) try(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, k.program, append([]string{"--config", k.dir, "--host", k.host()}, args...)...)
	cmd.Stdin, cmd.Env = strings.NewReader(stdin), []string{"PATH=/usr/bin:/bin", "HOME=" + k.dir, "DOCKER_BUILDKIT=0"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (k *docker) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := k.try(t, "", args...)
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// config is the digest of an image's config, by which Docker's own store knows it; containerd's store knows it by its manifest.
func (k *docker) config(t *testing.T, ref string) string {
	t.Helper()
	to := filepath.Join(k.dir, "config.tar")
	defer os.Remove(to)
	k.run(t, "save", ref, "-o", to)
	var lines []struct{ Config string }
	if err := json.Unmarshal([]byte(output(t, debian("tar"), "-xOf", to, "manifest.json")), &lines); err != nil || len(lines) != 1 {
		t.Fatalf("docker save %s has the images %v, %v", ref, lines, err)
	}
	return strings.TrimSuffix(filepath.Base(lines[0].Config), ".json")
}

// startDockersHome starts an imagecache on plain http, as Docker speaks it to this machine, where one user may push and read.
func startDockersHome(t *testing.T) *daemon {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(homePassword), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	passwords := filepath.Join(t.TempDir(), "htpasswd")
	write(t, passwords, fmt.Appendf(nil, "%s:%s\n", homeUser, hash))
	return startDaemon(t, "http://127.0.0.1:1", fmt.Sprintf(
		"\n[access]\nhtpasswd_file = %q\nrules = [\"user:%s pull,push,delete local/**\", \"* pull docker.io/**\"]\n", passwords, homeUser))
}

// manyPlatforms is the layout of an index of two platforms, ours last.
func manyPlatforms(t *testing.T, compressed types.MediaType) (dir string, ours v1.Image) {
	t.Helper()
	ours = ociImage(t, "amd64", layer(t, compressed, greeting("of many")))
	other := ociImage(t, "riscv64", layer(t, types.OCILayer, greeting("of another")))
	index := mutate.IndexMediaType(mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "riscv64"}}},
		mutate.IndexAddendum{Add: ours, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}}), types.OCIImageIndex)
	dir = t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = path.AppendIndex(index)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir, ours
}

// TestDocker: it signs in, builds, pushes and pulls, here by path and as its mirror of Docker Hub; what it saves is imported, and what is
// exported it loads as the image that it was.
func TestDocker(t *testing.T) {
	for _, version := range dockers() {
		t.Run(version.name, func(t *testing.T) {
			d := startDockersHome(t)
			k := startDocker(t, version, d)
			ref := d.addr + "/local/team/app:v1"
			source := t.TempDir()
			write(t, filepath.Join(source, "Dockerfile"), []byte("FROM scratch\nCOPY Dockerfile /\nLABEL by="+version.name+"\n"))
			k.run(t, "build", "--tag", ref, source)
			built := k.config(t, ref)

			if out, err := k.try(t, "", "push", ref); err == nil {
				t.Errorf("pushed as nobody: %s", out)
			}
			if out, err := k.try(t, "wrong", "login", "--username", homeUser, "--password-stdin", d.addr); err == nil {
				t.Errorf("signed in with a wrong password: %s", out)
			}
			if out, err := k.try(t, homePassword, "login", "--username", homeUser, "--password-stdin", d.addr); err != nil {
				t.Fatalf("docker login: %v\n%s", err, out)
			}
			k.run(t, "push", ref)
			k.run(t, "rmi", ref)
			k.run(t, "pull", ref)
			if got := k.config(t, ref); got != built {
				t.Errorf("what was pushed as %s is pulled as %s", built, got)
			}

			saved, exported := filepath.Join(source, "saved.tar"), filepath.Join(source, "exported.tar")
			k.run(t, "save", ref, "-o", saved)
			d.mustRun(t, "import", "--name", "docker.io/acme/app:v2", saved)
			d.mustRun(t, "import", "--name", "docker.io/library/hello:v3", saved)
			d.mustRun(t, "export", "docker.io/library/hello:v3", "local/team/app:v1", "-o", exported)
			k.run(t, "rmi", ref)
			k.run(t, "load", "-i", exported)
			for _, name := range []string{"hello:v3", "local/team/app:v1"} {
				if got := k.config(t, name); got != built {
					t.Errorf("%s is loaded as %s, want %s", name, got, built)
				}
				k.run(t, "rmi", name)
			}

			for _, name := range []string{"hello:v3", "acme/app:v2", d.addr + "/docker.io/acme/app:v2"} { // the first two through the mirror
				k.run(t, "pull", name)
				if got := k.config(t, name); got != built {
					t.Errorf("%s is pulled as %s, want %s", name, got, built)
				}
			}
			many, ours := manyPlatforms(t, version.layer)
			d.mustRun(t, "import", "--name", "local/many:v1", many)
			d.mustRun(t, "export", "local/many:v1", "-o", exported)
			k.run(t, "load", "-i", exported)
			if want, err := ours.ConfigName(); err != nil || k.config(t, "local/many:v1") != want.Hex {
				t.Errorf("of an index %s is loaded, want %s, %v", k.config(t, "local/many:v1"), want.Hex, err)
			}
			d.requireTrueStore(t)
		})
	}
}

//go:build e2e && clients

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

// These clients take long to get, so that they have a target of their own: `make clients`.

// TestMain of the suite asks for what all tests need; these need more.
func requireProgram(t *testing.T, path string) string {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v; `e2e/setup.sh clients` installs it", err)
	}
	return path
}

// TestPodmanAndBuildah: both push, list, pull and mount; neither deletes in a registry, which is skopeo's part.
func TestPodmanAndBuildah(t *testing.T) {
	for name, start := range map[string]func(*testing.T) *home{"open": startHome, "locked": startLockedHome} {
		for _, program := range []string{"podman", "buildah"} {
			t.Run(name+"/"+program, func(t *testing.T) {
				h := start(t)
				path := requireProgram(t, debian(program))
				storage := newStorage(t)
				run := func(args ...string) string { return h.run(t, path, append(storage, args...)...) }
				verify := h.tlsVerify("tls-verify")
				image := run("pull", "oci:"+lowerCase(t, layoutOf(t, ociImage(t, "amd64", layer(t, types.OCILayer, greeting(program)))))+":v1")
				id := strings.TrimSpace(image)
				run("push", verify, id, "docker://"+h.ref(program+"/app:v1"))
				run("push", verify, id, "docker://"+h.ref(program+"/copy:v1"))
				h.requireMounted(t, program+"/copy", 1)
				run("rmi", "--all", "--force")
				run("pull", verify, "docker://"+h.ref(program+"/copy:v1"))
				if program == "podman" {
					if tags := run("search", verify, "--list-tags", h.ref("podman/app")); !strings.Contains(tags, "v1") {
						t.Errorf("tags: %s", tags)
					}
				}
				h.run(t, debian("skopeo"), "delete", verify, "docker://"+h.ref(program+"/copy:v1"))
				if out, err := h.try(t, path, append(newStorage(t), "pull", verify, "docker://"+h.ref(program+"/copy:v1"))...); err == nil {
					t.Errorf("pulled what was deleted: %s", out)
				}
				h.requireTrueStore(t)
			})
		}
	}
}

// newStorage are the options for an empty storage of podman's or buildah's, which needs no right to mount anything. Its paths are short: the
// programs refuse long ones.
func newStorage(t *testing.T) []string {
	t.Helper()
	dir, err := os.MkdirTemp(scratch, "p-")
	if err != nil {
		t.Fatal(err)
	}
	return []string{"--storage-driver", "vfs", "--root", filepath.Join(dir, "s"), "--runroot", filepath.Join(dir, "r")}
}

// lowerCase moves a folder to a path that can be the name of an image, which these programs make of it.
func lowerCase(t *testing.T, folder string) string {
	t.Helper()
	dir, err := os.MkdirTemp(scratch, "layout-")
	if err == nil {
		dir = filepath.Join(dir, "l")
		err = os.Rename(folder, dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

const chart = `apiVersion: v2
name: app
version: 1.2.3
description: a chart
`

// TestHelm: a chart is pushed, shown and pulled.
func TestHelm(t *testing.T) {
	helm := requireProgram(t, built("helm"))
	for name, start := range map[string]func(*testing.T) *home{"open": startHome, "locked": startLockedHome} {
		t.Run(name, func(t *testing.T) {
			h := start(t)
			source := filepath.Join(h.dir, "app")
			if err := os.MkdirAll(filepath.Join(source, "templates"), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(source, "Chart.yaml"), []byte(chart))
			write(t, filepath.Join(source, "templates", "map.yaml"), []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"))
			h.run(t, helm, "package", source, "--destination", h.dir)
			packed := filepath.Join(h.dir, "app-1.2.3.tgz")
			how := []string{"--plain-http"}
			if h.ca != "" {
				how = []string{"--ca-file", h.ca}
				h.run(t, helm, "registry", "login", h.addr, "--username", homeUser, "--password", homePassword, "--ca-file", h.ca)
			}
			h.run(t, helm, append([]string{"push", packed, "oci://" + h.ref("charts")}, how...)...)
			if said := h.run(t, helm, append([]string{"show", "chart", "oci://" + h.ref("charts/app"), "--version", "1.2.3"}, how...)...); !strings.Contains(said, "a chart") {
				t.Errorf("helm shows %s", said)
			}
			to := t.TempDir()
			h.run(t, helm, append([]string{"pull", "oci://" + h.ref("charts/app"), "--version", "1.2.3", "--destination", to}, how...)...)
			want, err := os.ReadFile(packed)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(filepath.Join(to, "app-1.2.3.tgz")); err != nil || !slices.Equal(got, want) {
				t.Errorf("the chart came back as %d bytes of %d, %v", len(got), len(want), err)
			}
		})
	}
}

// TestCosign: an image is signed and verified by key, without a transparency log, and not after its signature is deleted.
func TestCosign(t *testing.T) {
	cosign := requireProgram(t, built("cosign"))
	t.Setenv("COSIGN_PASSWORD", "")
	for name, start := range map[string]func(*testing.T) *home{"open": startHome, "locked": startLockedHome} {
		t.Run(name, func(t *testing.T) {
			h := start(t)
			image := busyboxImage(t, "signed")
			ref := h.ref("team/app@" + digestOf(t, image).String())
			h.run(t, built("crane"), "push", layoutOf(t, image), h.ref("team/app:v1"))
			key := filepath.Join(h.dir, "cosign")
			h.run(t, cosign, "generate-key-pair", "--output-key-prefix", key)
			insecure := []string{"--allow-http-registry=true"}
			if h.ca != "" {
				insecure = nil
			}
			verify := append([]string{"verify", "--key", key + ".pub", "--insecure-ignore-tlog=true"}, insecure...)
			if out, err := h.try(t, cosign, append(verify, ref)...); err == nil {
				t.Errorf("verified before it was signed: %s", out)
			}
			h.run(t, cosign, append(append([]string{"sign", "--yes", "--key", key + ".key", "--tlog-upload=false"}, insecure...), ref)...)
			if said := h.run(t, cosign, append(verify, ref)...); !strings.Contains(said, digestOf(t, image).String()) {
				t.Errorf("cosign verifies %s", said)
			}
			h.run(t, cosign, append(append([]string{"clean", "--force", "--type", "signature"}, insecure...), ref)...)
			if out, err := h.try(t, cosign, append(verify, ref)...); err == nil {
				t.Errorf("verified after the signature was deleted: %s", out)
			}
		})
	}
}

// TestSignaturesCrossAnAirGap: what cosign signs in one home, by its own tags and by the referrers API, it verifies in another one that has
// only what was exported; and what cosign save wrote as well.
func TestSignaturesCrossAnAirGap(t *testing.T) {
	cosign := requireProgram(t, built("cosign"))
	t.Setenv("COSIGN_PASSWORD", "")
	t.Setenv("COSIGN_EXPERIMENTAL", "1") // it signs by the referrers API with this alone
	here, there := startHome(t), startHome(t)
	key, archive := filepath.Join(here.dir, "cosign"), filepath.Join(here.dir, "signed.tar")
	here.run(t, cosign, "generate-key-pair", "--output-key-prefix", key)
	plain := []string{"--allow-http-registry=true"}
	with := func(args ...string) []string { return append(args, plain...) }
	verify := with("verify", "--key", key+".pub", "--insecure-ignore-tlog=true")
	for name, how := range map[string]struct{ sign, verify []string }{
		"tagged":    {nil, nil},
		"referring": {[]string{"--registry-referrers-mode=oci-1-1"}, []string{"--experimental-oci11=true"}},
	} {
		image := busyboxImage(t, name)
		ref := func(h *home) string { return h.ref("team/" + name + "@" + digestOf(t, image).String()) }
		here.run(t, built("crane"), "push", layoutOf(t, image), here.ref("team/"+name+":v1"))
		here.run(t, cosign, append(append(with("sign", "--yes", "--key", key+".key", "--tlog-upload=false"), how.sign...), ref(here))...)
		here.mustRun(t, "export", "local/team/"+name+":v1", "-o", archive)
		there.mustRun(t, "import", archive)
		said := there.run(t, cosign, append(append(slices.Clone(verify), how.verify...), ref(there))...)
		if !strings.Contains(said, digestOf(t, image).String()) {
			t.Errorf("%s: cosign verifies %s", name, said)
		}
	}
	saved := filepath.Join(here.dir, "saved")
	here.run(t, cosign, with("save", "--dir", saved, here.ref("team/tagged:v1"))...)
	there.mustRun(t, "import", "--name", "local/saved:v1", saved)
	there.run(t, cosign, append(slices.Clone(verify), there.ref("saved:v1"))...)
	here.mustRun(t, "export", "--no-referrers", "local/team/tagged:v1", "-o", archive)
	there.mustRun(t, "import", "--name", "local/bare:v1", archive)
	if out, err := there.try(t, cosign, append(slices.Clone(verify), there.ref("bare:v1"))...); err == nil {
		t.Errorf("verified though its signature was left out: %s", out)
	}
	there.requireTrueStore(t)
}

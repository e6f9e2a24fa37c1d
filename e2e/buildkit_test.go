//go:build e2e && clients

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// buildkit is a daemon that builds images, with nothing in it, and the home that it pushes to.
type buildkit struct {
	*home
	address string
}

// startBuildkit starts a buildkitd that trusts a home, and has it as its mirror of Docker Hub.
func startBuildkit(t *testing.T, h *home) *buildkit {
	t.Helper()
	dir, err := os.MkdirTemp(scratch, "b-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // runs after the daemon has ended
		unmountUnder(t, dir)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	b := &buildkit{home: h, address: "unix://" + filepath.Join(dir, "s")}
	trust := "http = true"
	if h.ca != "" {
		trust = fmt.Sprintf("http = false\nca = [%q]", h.ca) // it takes this machine's registries for plain http unless told
	}
	settings := filepath.Join(dir, "buildkitd.toml")
	write(t, settings, fmt.Appendf(nil, `root = %q
[grpc]
address = [%q]
[worker.oci]
snapshotter = "native"
networkMode = "host"
binary = %q
[worker.containerd]
enabled = false
[registry."docker.io"]
mirrors = [%q]
[registry.%q]
%s
`, filepath.Join(dir, "root"), b.address, debian("runc"), h.addr, h.addr, trust))
	cmd := exec.Command(requireProgram(t, built("buildkitd")), "--config", settings)
	cmd.Env = []string{"PATH=/usr/bin:/usr/sbin:/bin:/sbin", "HOME=" + dir, "TMPDIR=" + dir}
	proc := start(t, "buildkitd", cmd)
	eventually(t, "buildkitd answers", func() error {
		if proc.ended() {
			t.Fatal("buildkitd has ended")
		}
		_, err := h.try(t, built("buildctl"), "--addr", b.address, "debug", "workers")
		return err
	})
	return b
}

// build builds a Dockerfile with options of buildctl and pushes what comes of it; nothing of earlier builds is left to build it from.
func (b *buildkit) build(t *testing.T, dockerfile, ref string, options ...string) {
	t.Helper()
	source := t.TempDir()
	write(t, filepath.Join(source, "Dockerfile"), []byte(dockerfile))
	b.run(t, built("buildctl"), "--addr", b.address, "prune", "--all")
	b.run(t, built("buildctl"), append([]string{"--addr", b.address, "build", "--frontend", "dockerfile.v0",
		"--local", "context=" + source, "--local", "dockerfile=" + source, "--output", "type=image,push=true,name=" + ref}, options...)...)
}

// layers are those of an image for this machine.
func (b *buildkit) layers(t *testing.T, ref string) []specs.Descriptor {
	t.Helper()
	var manifest specs.Manifest
	decode(t, b.run(t, built("crane"), "manifest", "--platform", "linux/amd64", ref), &manifest)
	return manifest.Layers
}

// chance makes another layer each time that it is built anew.
const chance = `RUN ["/bin/busybox", "sh", "-c", "/bin/busybox head -c 100000 /dev/urandom > /chance"]` + "\n"

// TestBuildkit: it builds from images of a home, pushes images with what attests them, and keeps its caches there in each of their forms: what was
// built with a cache, also with one that crossed an air gap, is what was built before.
func TestBuildkit(t *testing.T) {
	for name, start := range map[string]func(*testing.T) *home{"open": startHome, "locked": startLockedHome} {
		t.Run(name, func(t *testing.T) {
			h := start(t)
			h.run(t, built("crane"), "push", layoutOf(t, busyboxImage(t, "base")), h.ref("base:v1"))
			b := startBuildkit(t, h)
			dockerfile := "FROM " + h.ref("base:v1") + " AS first\n" + chance + "FROM " + h.ref("base:v1") + "\nCOPY --from=first /chance /chance\n"
			for form, options := range map[string]string{"manifest": "image-manifest=true", "index": "image-manifest=false", "docker": "image-manifest=false,oci-mediatypes=false"} {
				t.Run(form, func(t *testing.T) {
					cache, first, again := h.ref("cache:"+form), h.ref(form+":first"), h.ref(form+":again")
					b.build(t, dockerfile, first, "--export-cache", "type=registry,mode=max,ref="+cache+","+options, "--opt", "attest:provenance=mode=max")
					b.requireAttested(t, first)
					b.build(t, dockerfile, again, "--import-cache", "type=registry,ref="+cache)
					b.requireSame(t, first, again)
					archive := filepath.Join(t.TempDir(), "cache.tar")
					h.mustRun(t, "pin", "local/cache:"+form)
					h.mustRun(t, "export", "local/cache:"+form, "-o", archive)
					h.mustRun(t, "import", "--name", "local/far:"+form, archive)
					b.build(t, dockerfile, again, "--import-cache", "type=registry,ref="+h.ref("far:"+form))
					b.requireSame(t, first, again)
				})
			}
			h.requireTrueStore(t)
		})
	}
}

// requireSame holds that two builds, each of which would make a layer of its own, have one.
func (b *buildkit) requireSame(t *testing.T, first, again string) {
	t.Helper()
	if before, after := b.layers(t, first), b.layers(t, again); len(before) < 3 || !reflect.DeepEqual(before, after) {
		t.Errorf("built with the cache, the layers are %v, before %v", after, before)
	}
}

func (b *buildkit) requireAttested(t *testing.T, ref string) {
	t.Helper()
	if index := b.run(t, built("crane"), "manifest", ref); !strings.Contains(index, `"attestation-manifest"`) {
		t.Errorf("%s has no attestation: %s", ref, index)
	}
}

// TestBuildkitBuildsThroughItsMirror: an image of Docker Hub's name comes from the cache.
func TestBuildkitBuildsThroughItsMirror(t *testing.T) {
	h := startHome(t)
	h.mustRun(t, "import", "--name", "docker.io/library/base:v1", layoutOf(t, busyboxImage(t, "of a mirror")))
	startBuildkit(t, h).build(t, "FROM base:v1\n"+`RUN ["/bin/busybox", "grep", "of a mirror", "/greeting"]`+"\n", h.ref("app:v1"))
}

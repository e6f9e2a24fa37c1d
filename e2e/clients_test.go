//go:build e2e

package e2e

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"
)

// Point 7: skopeo, crane and containerd pull the multi-platform image by the path form and by ns, and hold the digests that were pushed.
func TestClientsPathFormAndNS(t *testing.T) {
	upstream := startRegistry(t, nil)
	index := multiPlatform(t, "multi")
	pushed := upstream.push(t, "team/deep/multi:1", index)
	d := startDaemon(t, upstream.url())
	path := d.addr + "/" + upstreamName + "/team/deep/multi"

	t.Run("skopeo", func(t *testing.T) { skopeoPulls(t, path, index) })
	t.Run("crane", func(t *testing.T) { cranePulls(t, path, pushed) })
	for _, version := range []containerdVersion{containerd16, containerd24} {
		t.Run(version.name, func(t *testing.T) {
			c := startContainerd(t, version, d)
			containerdPulls(t, c, upstreamName+"/team/deep/multi", pushed)
			containerdPulls(t, c, path, pushed)
		})
	}
	upstream.requireFetchedOnce(t, append(blobsOf(t, imageFor(t, index, "amd64")), blobsOf(t, imageFor(t, index, "arm64"))...))
}

// skopeoPulls wants skopeo to hold the index and the image of each platform as they were pushed.
func skopeoPulls(t *testing.T, repository string, index v1.ImageIndex) {
	skopeo, source := debian("skopeo"), "docker://"+repository+":1"
	raw := output(t, skopeo, "inspect", "--raw", "--tls-verify=false", source)
	if got, pushed := digest.FromString(raw), digestOf(t, index); got != pushed {
		t.Errorf("skopeo inspect --raw gives %s, want %s", got, pushed)
	}
	for _, architecture := range []string{"amd64", "arm64"} {
		dir, image := t.TempDir(), imageFor(t, index, architecture)
		output(t, skopeo, "--override-arch", architecture, "copy", "--preserve-digests", "--src-tls-verify=false", source, "dir:"+dir)
		requireFileDigest(t, filepath.Join(dir, "manifest.json"), digestOf(t, image))
		for _, hash := range blobsOf(t, image) {
			requireFileDigest(t, filepath.Join(dir, hash.Encoded()), hash)
		}
	}
}

// cranePulls wants crane to hold the index and all it names, and to see the one tag.
func cranePulls(t *testing.T, repository string, pushed digest.Digest) {
	crane := built("crane")
	if got := strings.TrimSpace(output(t, crane, "digest", repository+":1")); got != pushed.String() {
		t.Errorf("crane digest gives %s, want %s", got, pushed)
	}
	if got := strings.Fields(output(t, crane, "ls", repository)); len(got) != 1 || got[0] != "1" {
		t.Errorf("crane ls gives %q, want the one tag", got)
	}
	dir := t.TempDir()
	output(t, crane, "pull", "--format", "oci", repository+":1", dir)
	pulled, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(pulled); err != nil {
		t.Error(err)
	}
	requireFileDigest(t, filepath.Join(dir, "blobs", "sha256", pushed.Encoded()), pushed)
}

// containerdPulls wants containerd to hold the index by tag and by digest, and to run the image of this platform.
func containerdPulls(t *testing.T, c *containerd, repository string, pushed digest.Digest) {
	for _, reference := range []string{repository + ":1", repository + "@" + pushed.String()} {
		c.pull(t, reference)
		if got := c.digest(t, reference); got != pushed {
			t.Errorf("%s has %s as %s, want %s", c.version.name, reference, got, pushed)
		}
		if got := c.run(t, reference); got != "multi\n" {
			t.Errorf("%s of %s printed %q", c.version.name, reference, got)
		}
	}
}

// requireFileDigest wants a file to hold the bytes of a digest.
func requireFileDigest(t *testing.T, path string, want digest.Digest) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
		return
	}
	if got := fmt.Sprintf("sha256:%x", sha256.Sum256(content)); got != want.String() {
		t.Errorf("%s is %s, want %s", path, got, want)
	}
}

//go:build e2e

package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

// What is exported is taken by containerd, skopeo and another imagecache, which serves it with no way to any upstream; and that one takes
// what crane, skopeo and ctr write.
func TestImagesCrossAnAirGap(t *testing.T) {
	upstream := startRegistry(t, nil)
	image := ociImage(t, "amd64", layer(t, types.OCILayer, busyboxFiles(t)...), layer(t, types.OCILayer, greeting("over the gap")))
	upstream.push(t, "team/tool:1", image)
	d := startDaemon(t, upstream.url())
	name := upstreamName + "/team/tool:1"
	d.mustRun(t, "pull", name)
	dir := t.TempDir()
	archive := filepath.Join(dir, "tool.tar")
	d.mustRun(t, "export", name, "-o", archive)

	c := startContainerdAlone(t, containerd24)
	c.ctr(t, "images", "import", "--snapshotter", c.snapshotter, archive)
	if got := c.digest(t, name); got != digestOf(t, image) {
		t.Errorf("containerd imports %s as %s, want %s", name, got, digestOf(t, image))
	}
	if said := c.run(t, name); !strings.Contains(said, "over the gap") {
		t.Errorf("what containerd imported says %q", said)
	}
	if said := output(t, debian("skopeo"), "inspect", "--format", "{{.Digest}}", "oci-archive:"+archive+":"+name); strings.TrimSpace(said) != digestOf(t, image).String() {
		t.Errorf("skopeo sees %s in the archive, want %s", said, digestOf(t, image))
	}

	gap := startDaemon(t, "http://"+freeAddress(t)) // where nobody listens
	gap.mustRun(t, "import", archive, "--pin")
	fresh := startContainerd(t, containerd24, gap)
	fresh.pull(t, name)
	if said := fresh.run(t, name); !strings.Contains(said, "over the gap") {
		t.Errorf("what was pulled beyond the gap says %q", said)
	}

	source, crane, skopeo := "docker://"+gap.addr+"/"+upstreamName+"/team/tool:1", built("crane"), debian("skopeo")
	in := func(file string) string { return filepath.Join(dir, file) }
	output(t, skopeo, "copy", "--src-tls-verify=false", source, "docker-archive:"+in("skopeo.tar")+":local/by/skopeo:v1")
	output(t, skopeo, "copy", "--src-tls-verify=false", source, "oci-archive:"+in("skopeo-oci.tar")+":v1")
	output(t, crane, "pull", "--insecure", gap.addr+"/"+upstreamName+"/team/tool:1", in("crane.tar"))
	output(t, crane, "pull", "--insecure", "--format", "oci", gap.addr+"/"+upstreamName+"/team/tool:1", in("layout"))
	c.ctr(t, "images", "export", in("ctr.tar"), name)
	for file, own := range map[string]string{
		"skopeo.tar": "local/by/skopeo:v1", "skopeo-oci.tar": "local/by/skopeo:oci", "crane.tar": "local/by/crane:v1", "layout": "local/by/crane:oci", "ctr.tar": "local/by/ctr:v1",
	} {
		gap.mustRun(t, "import", "--name", own, in(file))
		output(t, skopeo, "copy", "--src-tls-verify=false", "docker://"+gap.addr+"/"+own, "dir:"+in("dir-"+file))
		repository, tag, _ := strings.Cut(own, ":")
		fresh.ctr(t, "images", "pull", "--plain-http", "--snapshotter", fresh.snapshotter, gap.addr+"/"+repository+":"+tag)
		if said := fresh.run(t, gap.addr+"/"+repository+":"+tag); !strings.Contains(said, "over the gap") {
			t.Errorf("%s as %s says %q", file, own, said)
		}
	}
	gap.requireTrueStore(t)
}

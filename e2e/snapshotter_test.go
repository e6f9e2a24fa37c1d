//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

// pair is two images that share their first layer.
func pair(t *testing.T, upstream *registry) []*shipped {
	t.Helper()
	first, second := busyboxImage(t, "first"), busyboxImage(t, "second")
	images := []*shipped{
		{tag: "team/first:1", what: first, runs: first, prints: "first\n"},
		{tag: "team/second:1", what: second, runs: second, prints: "second\n"},
	}
	ship(t, upstream, images)
	return images
}

// containerd 2.4 through its transfer service: no layer of an image crosses to it, cold or cached, and everything else is as ever.
func TestSnapshotterPullsWithoutLayers(t *testing.T) {
	for _, form := range unpackedForms(t) {
		t.Run(form, func(t *testing.T) {
			upstream := startRegistry(t, nil)
			images := pair(t, upstream)
			sixty := &shipped{tag: "team/sixty:1", what: sixtyLayers(t, "sixty"), command: []string{"/bin/sh", "-c", "ls /layers | wc -l"}, prints: "59\n"}
			sixty.runs = sixtyLayers(t, "sixty")
			sixty.digest = upstream.push(t, sixty.tag, sixty.what)
			images = append(images, sixty)
			d := startUnpacking(t, upstream.url(), form)
			c := startSnapshotting(t, containerd24, d, false)
			for _, image := range images {
				image.mustArrive(t, c)
				d.requireNoLayerAsked(t, image.runs)
			}
			if s := d.snapshotterStatus(t); s.misses() > 0 || s.Forms[form] != 2+1+60 || s.Taken == 0 {
				t.Errorf("%+v", s)
			}
			checkContainersApart(t, c, images[0])
			other := *c
			other.namespace = "other"
			images[1].mustArrive(t, &other)
			checkRemovedAndPulledAgain(t, c, &other, d, images)
			overlay := *c
			overlay.snapshotter = "overlayfs"
			images[1].mustArrive(t, &overlay)
			if asked := d.layersAsked(t, images[1].runs); len(asked) != 2 {
				t.Errorf("for overlayfs the mirror was asked for %v", asked)
			}
			c.ctr(t, "images", "rm", "--sync", images[1].reference())
			requireNoTraces(t, d)
			d.requireTrueStore(t)
		})
	}
}

// checkContainersApart runs two containers of one image side by side: neither sees what the other writes.
func checkContainersApart(t *testing.T, c *containerd, image *shipped) {
	t.Helper()
	ids := []string{"apart-1", "apart-2"}
	for _, id := range ids {
		c.ctr(t, "run", "-d", "--snapshotter", c.snapshotter, image.reference(), id, "/bin/busybox", "sleep", "1000")
		c.exec(t, id, "/bin/sh", "-c", "echo "+id+" > /etc/mine")
	}
	for _, id := range ids {
		if got := c.exec(t, id, "/bin/cat", "/etc/mine", "/greeting"); got != id+"\n"+image.prints {
			t.Errorf("container %s reads %q", id, got)
		}
	}
	for _, id := range ids {
		c.destroy(t, id)
	}
}

// checkRemovedAndPulledAgain removes all images everywhere: nothing of them stays mounted, and they come back from what is unpacked.
func checkRemovedAndPulledAgain(t *testing.T, c, other *containerd, d *daemon, images []*shipped) {
	t.Helper()
	other.ctr(t, "images", "rm", "--sync", images[1].reference())
	for _, image := range images {
		c.ctr(t, "images", "rm", "--sync", image.reference())
	}
	requireNoTraces(t, d)
	made := d.snapshotterStatus(t).Forms
	for _, image := range images {
		image.mustArrive(t, c)
		d.requireNoLayerAsked(t, image.runs)
	}
	if again := d.snapshotterStatus(t).Forms; fmt.Sprint(again) != fmt.Sprint(made) {
		t.Errorf("unpacked layers were %v and are %v", made, again)
	}
	for _, image := range images {
		c.ctr(t, "images", "rm", "--sync", image.reference())
	}
}

// A layer that is not here when containerd asks, and may not be waited for, is fetched and unpacked by containerd, and so are those above
// it, as far as they are not here either.
func TestSnapshotterPartialHit(t *testing.T) {
	upstream := startRegistry(t, nil)
	base := layer(t, types.OCILayer, busyboxFiles(t)...)
	below := ociImage(t, "amd64", base, layer(t, types.OCILayer, greeting("below")))
	whole := ociImage(t, "amd64", base, layer(t, types.OCILayer, file{path: "middle", mode: 0o644, body: []byte("m\n")}), layer(t, types.OCILayer, greeting("whole")))
	images := []*shipped{
		{tag: "team/below:1", what: below, runs: below, prints: "below\n"},
		{tag: "team/whole:1", what: whole, runs: whole, command: []string{"/bin/cat", "/middle", "/greeting"}, prints: "m\nwhole\n"},
	}
	ship(t, upstream, images)
	d := startUnpacking(t, upstream.url(), bestForm(t), `unpack = "wanted"`, `prepare_wait = "0s"`)
	mnt := filepath.Join(d.dir, "mnt")
	d.mustRun(t, "mount", images[0].reference(), mnt) // unpacks what both share
	c := startSnapshotting(t, containerd24, d, false)
	images[1].mustArrive(t, c)
	layers := blobsOf(t, whole)[1:]
	asked := d.layersAsked(t, whole)
	slices.Sort(asked)
	if want := slices.Sorted(slices.Values(layers[1:])); !slices.Equal(slices.Compact(asked), want) {
		t.Errorf("the mirror was asked for %v, want %v", asked, want)
	}
	if s := d.snapshotterStatus(t); s.Taken != 1 || s.misses() == 0 {
		t.Errorf("%+v", s)
	}
	d.mustRun(t, "umount", mnt)
}

// What is pinned starts on a machine whose containerd has nothing, without any network, after imagecache was started again.
func TestSnapshotterStartsPinnedWithoutNetwork(t *testing.T) {
	for _, version := range []containerdVersion{containerd24, containerd16} {
		t.Run(version.name, func(t *testing.T) {
			upstream := startRegistry(t, nil)
			images := pair(t, upstream)
			pause := pauseImage(t)
			upstream.push(t, pauseTag, pause)
			d := startUnpacking(t, upstream.url(), bestForm(t))
			d.mustRun(t, "pin", images[0].reference(), images[1].reference(), upstreamName+"/"+pauseTag)
			upstream.proc.kill()
			d.restart(t)
			c := startSnapshotting(t, version, d, true)
			k := newKubelet(t, c)
			for _, image := range images {
				k.pull(t, image.reference())
				if got := k.runs(t, image.reference(), "/bin/cat", "/greeting"); got != image.prints {
					t.Errorf("it printed %q", got)
				}
				d.requireNoLayerAsked(t, image.runs, pause)
			}
			for _, file := range []string{"blobs/sha256"} { // containerd's content store has manifests and configs only
				requireSmallContent(t, filepath.Join(c.dir, "root", "io.containerd.content.v1.content", file))
			}
			k.removeAll(t)
			for _, image := range images {
				k.remove(t, image.reference())
				k.pull(t, image.reference())
			}
			if got := k.runs(t, images[1].reference(), "/bin/cat", "/greeting"); got != images[1].prints {
				t.Errorf("pulled again, it printed %q", got)
			}
			d.requireNoLayerAsked(t, images[0].runs, images[1].runs, pause)
		})
	}
}

// requireSmallContent wants no blob as large as a layer with busybox in it.
func requireSmallContent(t *testing.T, dir string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if info, err := file.Info(); err == nil && info.Size() > 100<<10 {
			t.Errorf("containerd fetched %s of %d bytes", file.Name(), info.Size())
		}
	}
}

// containerd's own EROFS snapshotter takes what imagecache has unpacked.
func TestErofsSnapshotterOfContainerd(t *testing.T) {
	if !erofsWorks() {
		t.Skip("NOT TRIED: this kernel mounts no EROFS")
	}
	upstream := startRegistry(t, nil)
	// Layers that name all their folders, as real ones do: what is right on top of certain layers only is not published.
	tree := debianImage(t, "tree")
	image := &shipped{tag: "team/tree:12", what: tree, runs: tree, command: []string{"/bin/cat", "/greeting"}, prints: "tree\n"}
	image.digest = upstream.push(t, image.tag, image.what)
	d := startUnpacking(t, upstream.url(), formEROFS)
	d.mustRun(t, "pin", image.reference())
	eventually(t, "its two layers are published", func() error {
		if files := d.erofsFiles(t); len(files) != 2 {
			return fmt.Errorf("there are %v", files)
		}
		return nil
	})
	c := newContainerd(t, containerd24)
	settings := strings.Replace(c.settings(), `snapshotter = "overlayfs"`, `snapshotter = "erofs"`, 1)
	mustWrite(t, c.config(), settings+fmt.Sprintf("[plugins.\"io.containerd.snapshotter.v1.erofs\"]\n  layer_content_caches = [%q]\n", d.erofsFolder()))
	c.snapshotter = "erofs"
	d.install(t, c.hosts)
	c.start(t)
	image.mustArrive(t, c)
	d.requireNoLayerAsked(t, tree)
	c.ctr(t, "images", "rm", "--sync", image.reference())
}

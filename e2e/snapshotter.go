//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
)

// The forms of unpacked layers, as the setting has them.
const (
	formDirectory = "directory"
	formEROFS     = "erofs"
)

// unpackedForms are those that this machine can have. One that mounts no EROFS files passes without them, and says so.
func unpackedForms(t *testing.T) []string {
	if !erofsWorks() {
		t.Log("NOT TRIED: this kernel mounts no EROFS, so layers are kept as directories only")
		return []string{formDirectory}
	}
	return []string{formDirectory, formEROFS}
}

// bestForm is what a machine like this one has in the end.
func bestForm(t *testing.T) string {
	forms := unpackedForms(t)
	return forms[len(forms)-1]
}

var erofsWorks = sync.OnceValue(func() bool {
	known, err := os.ReadFile("/proc/filesystems")
	return err == nil && strings.Contains(string(known), "\terofs\n")
})

// newUnpackingDaemon is newDaemon, with a snapshotter.
func newUnpackingDaemon(t *testing.T, url, form string, more ...string) *daemon {
	t.Helper()
	d := newDaemon(t, url)
	t.Cleanup(func() { unmountUnder(t, d.dir) }) // runs after the daemon has ended: its mounts stay
	settings, err := os.ReadFile(d.config())
	if err != nil {
		t.Fatal(err)
	}
	lines := append([]string{string(settings), "[snapshotter]", fmt.Sprintf("address = %q", d.snapshotterSocket()), fmt.Sprintf("form = %q", form)}, more...)
	if err := os.WriteFile(d.config(), []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *daemon) snapshotterSocket() string { return filepath.Join(d.dir, "snap") }

// startUnpacking is newUnpackingDaemon, started.
func startUnpacking(t *testing.T, url, form string, more ...string) *daemon {
	t.Helper()
	d := newUnpackingDaemon(t, url, form, more...)
	d.start(t)
	return d
}

// startSnapshotting starts a containerd with an empty store, the settings of which imagecache has changed so that it is mirror and snapshotter.
func startSnapshotting(t *testing.T, version containerdVersion, d *daemon, kubernetes bool) *containerd {
	t.Helper()
	c := newContainerd(t, version)
	c.kubernetes = kubernetes
	c.writeSettings(t)
	d.installSnapshotter(t, c)
	c.snapshotter = "imagecache"
	c.start(t)
	return c
}

// installSnapshotter has imagecache change a containerd's settings.
func (d *daemon) installSnapshotter(t *testing.T, c *containerd) {
	t.Helper()
	d.mustRun(t, "containerd", "install", "--snapshotter", "--snapshotter-address", d.snapshotterSocket(), "--yes",
		"--containerd-config", c.config(), "--config-path", c.hosts, "--mirror", "http://"+d.addr)
	d.mustRun(t, "containerd", "check", "--snapshotter", "--containerd-config", c.config())
}

// layersAsked are the layers of images that somebody asked this daemon's mirror for, since it was started, one entry a request.
func (d *daemon) layersAsked(t *testing.T, images ...v1.Image) (asked []digest.Digest) {
	t.Helper()
	log, err := os.ReadFile(d.proc.log)
	if err != nil {
		t.Fatal(err)
	}
	layers := map[digest.Digest]bool{}
	for _, image := range images {
		for _, hash := range blobsOf(t, image)[1:] {
			layers[hash] = true
		}
	}
	for line := range strings.Lines(string(log)) {
		_, rest, found := strings.Cut(line, "/blobs/")
		if !found {
			continue
		}
		hash := digest.Digest(strings.FieldsFunc(rest, func(r rune) bool { return r == ' ' || r == '"' || r == '?' })[0])
		if layers[hash] {
			asked = append(asked, hash)
		}
	}
	return asked
}

// requireNoLayerAsked wants no layer of these images to have gone through the mirror.
func (d *daemon) requireNoLayerAsked(t *testing.T, images ...v1.Image) {
	t.Helper()
	if asked := d.layersAsked(t, images...); len(asked) > 0 {
		t.Errorf("the mirror was asked for %d layers: %v", len(asked), asked)
	}
}

// snapshotterStatus is what a test reads of the daemon's status.
type snapshotterStatus struct {
	Taken      int64            `json:"taken"`
	Reused     int64            `json:"reused"`
	Missed     map[string]int64 `json:"missed"`
	Forms      map[string]int   `json:"forms"`
	FormsInUse int              `json:"forms_in_use"`
	Making     int              `json:"making"`
	Queued     int              `json:"queued"`
}

// misses counts the layers that containerd fetched and unpacked itself.
func (s snapshotterStatus) misses() (n int64) {
	for _, of := range s.Missed {
		n += of
	}
	return n
}

func (d *daemon) snapshotterStatus(t *testing.T) snapshotterStatus {
	t.Helper()
	var status struct {
		Snapshotter snapshotterStatus `json:"snapshotter"`
	}
	if err := json.Unmarshal([]byte(d.mustRun(t, "status", "-o", "json")), &status); err != nil {
		t.Fatal(err)
	}
	return status.Snapshotter
}

// traces are what a test may leave on a machine, but for the forms, which are there to stay: mounts, folders of snapshots and of root
// filesystems, loop devices.
func traces(t *testing.T, d *daemon) []string {
	t.Helper()
	found := mountsUnder(t, d.dir)
	for _, pattern := range []string{"rootfs/layers/s*", "rootfs/removed/*", "rootfs/rootfs/*", "rootfs/making/*", "rootfs/dropped/*", "rootfs/replaced/*"} {
		paths, err := filepath.Glob(filepath.Join(d.root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, paths...)
	}
	backing, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range backing {
		if file, err := os.ReadFile(path); err == nil && strings.HasPrefix(string(file), d.dir+"/") {
			found = append(found, path)
		}
	}
	slices.Sort(found)
	return found
}

// requireNoTraces wants everything gone that a test used. Snapshots that went are deleted in the background.
func requireNoTraces(t *testing.T, d *daemon) {
	t.Helper()
	eventually(t, "nothing is left", func() error {
		if left := traces(t, d); len(left) > 0 {
			return errors.New(strings.Join(left, "\n"))
		}
		if s := d.snapshotterStatus(t); s.FormsInUse > 0 {
			return fmt.Errorf("%d unpacked layers are in use", s.FormsInUse)
		}
		return nil
	})
}

// erofsFiles are the files of layers that imagecache publishes, by diff ID.
func (d *daemon) erofsFiles(t *testing.T) []digest.Digest {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(d.erofsFolder(), "sha256", "*", "*.erofs"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[digest.Digest]bool{}
	for _, path := range paths {
		found[digest.NewDigestFromEncoded(digest.SHA256, strings.TrimSuffix(filepath.Base(path), ".erofs"))] = true
	}
	return slices.Sorted(maps.Keys(found))
}

func (d *daemon) erofsFolder() string { return filepath.Join(d.root, "rootfs", "erofs") }

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// mountList is what "imagecache mount -o json" prints.
type mountList struct {
	Mounts []struct {
		Key       string   `json:"key"`
		Reference string   `json:"reference"`
		MountedOn []string `json:"mounted_on"`
	} `json:"mounts"`
}

func (d *daemon) mountList(t *testing.T) (list mountList) {
	t.Helper()
	if err := json.Unmarshal([]byte(d.mustRun(t, "mount", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// newMountingDaemon is a daemon that serves no containerd.
func newMountingDaemon(t *testing.T, url string) *daemon {
	t.Helper()
	d := newDaemon(t, url)
	t.Cleanup(func() { unmountUnder(t, d.dir) }) // runs after the daemon has ended: its mounts stay
	d.start(t)
	return d
}

func mustRead(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// A root filesystem without containerd: it stays while imagecache is killed, needs no upstream when the image is here, and goes wholly.
func TestMountWithoutContainerd(t *testing.T) {
	upstream := startRegistry(t, nil)
	images := pair(t, upstream)
	d := newMountingDaemon(t, upstream.url())
	first, second := filepath.Join(d.dir, "first"), filepath.Join(d.dir, "second")
	d.mustRun(t, "mount", images[0].reference(), first)
	if got := mustRead(t, filepath.Join(first, "greeting")); got != images[0].prints {
		t.Errorf("it holds %q", got)
	}
	if err := os.WriteFile(filepath.Join(first, "new"), nil, 0o600); err == nil {
		t.Error("a read-only root filesystem was written to")
	}
	upstream.proc.kill()
	d.proc.kill()
	if got := mustRead(t, filepath.Join(first, "greeting")); got != images[0].prints {
		t.Errorf("while imagecache is dead it holds %q", got)
	}
	d.start(t)
	d.mustRun(t, "mount", "--rw", images[0].reference(), second)
	mustWrite(t, filepath.Join(second, "etc", "new"), "written")
	if list := d.mountList(t); len(list.Mounts) != 2 || !slices.Equal(list.Mounts[1].MountedOn, []string{second}) {
		t.Errorf("listed are %+v", list)
	}
	checkMountedAgain(t, d, images[0], second)
	checkMountErrors(t, d, images, first)
	d.mustRun(t, "gc")
	d.mustRun(t, "umount", first, second)
	for _, dir := range []string{first, second} {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s holds %v, %v", dir, left, err)
		}
	}
	requireNoTraces(t, d)
}

// checkMountedAgain unmounts behind imagecache's back, as a boot does: it is told of, and comes back with what was written.
func checkMountedAgain(t *testing.T, d *daemon, image *shipped, dir string) {
	t.Helper()
	if err := syscall.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	d.restart(t)
	out, err := d.command(t, "mount").CombinedOutput()
	if err != nil || !strings.Contains(string(out), `give it up by "imagecache umount `+dir+`"`) {
		t.Errorf("what is mounted nowhere is told so: %v\n%s", err, out)
	}
	if _, said := d.mustFail(t, "mount", image.reference(), dir); !strings.Contains(said, "mount it again as it was") {
		t.Errorf("mounting it otherwise says %q", said)
	}
	d.mustRun(t, "mount", "--rw", image.reference(), dir)
	if got := mustRead(t, filepath.Join(dir, "etc", "new")); got != "written" {
		t.Errorf("mounted again, it holds %q", got)
	}
}

// checkMountErrors wants each to say what to do, and to leave nothing.
func checkMountErrors(t *testing.T, d *daemon, images []*shipped, taken string) {
	t.Helper()
	full, empty := filepath.Join(d.dir, "full"), filepath.Join(d.dir, "empty")
	mustWrite(t, filepath.Join(full, "file"), "precious")
	before := len(d.mountList(t).Mounts)
	for _, test := range []struct {
		args []string
		says string
	}{
		{[]string{"mount", images[0].reference(), taken}, "is mounted on " + taken + " already"},
		{[]string{"mount", images[0].reference(), full}, "is not empty"},
		{[]string{"mount", upstreamName + "/team/absent:1", empty}, "not reachable"}, // upstream is dead
		{[]string{"mount", "--platform", "linux/arm64", images[0].reference(), empty}, "not for linux/arm64"},
		{[]string{"mount", "--platform", "nonsense!", images[0].reference(), empty}, "not a platform"},
		{[]string{"mount", "oci:///nowhere", empty}, "not an image on this machine"},
		{[]string{"umount", empty}, "nothing of imagecache's is mounted"},
		{[]string{"bundle", images[0].reference(), full}, "is not empty"},
	} {
		code, said := d.mustFail(t, test.args...)
		if code != 1 || !strings.Contains(said, test.says) {
			t.Errorf("imagecache %s: exit code %d, %q", strings.Join(test.args, " "), code, said)
		}
	}
	if code, said := d.mustFail(t, "mount", "NOT A REF", empty); code != 2 {
		t.Errorf("a bad reference: exit code %d, %q", code, said)
	}
	checkMountAsUser(t, d, images[0], empty)
	if after := len(d.mountList(t).Mounts); after != before {
		t.Errorf("there were %d root filesystems, and are %d", before, after)
	}
	if _, err := os.Stat(empty); err == nil {
		t.Errorf("%s was made", empty)
	}
}

// checkMountAsUser has an ordinary user mount.
func checkMountAsUser(t *testing.T, d *daemon, image *shipped, dir string) {
	t.Helper()
	cmd := d.command(t, "mount", image.reference(), dir)
	folder := t.TempDir()
	for _, open := range []string{folder, filepath.Dir(folder)} { // which are root's alone
		if err := os.Chmod(open, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	own := filepath.Join(folder, "imagecache")
	program, err := os.ReadFile(cmd.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(own, program, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd.Path = own
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Errorf("nobody mounted: %s", out)
	}
	if !strings.Contains(string(out), "which only root may") {
		t.Errorf("as nobody: %v, %s", err, out)
	}
}

// A command in another mount namespace than the daemon does not see the layers that this has mounted: it says so, and mounts nothing else.
func TestMountInAnotherNamespaceIsRefused(t *testing.T) {
	if !erofsWorks() {
		t.Skip("NOT TRIED: this kernel mounts no EROFS, and directories are seen from everywhere")
	}
	upstream := startRegistry(t, nil)
	images := pair(t, upstream)
	d := newMountingDaemon(t, upstream.url())
	dir := filepath.Join(d.dir, "elsewhere")
	cmd := d.command(t, "mount", images[0].reference(), dir)
	cmd.Args = append([]string{debian("unshare"), "--mount", "--propagation", "private"}, cmd.Args...)
	cmd.Path = debian("unshare")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "mount namespace of its own") {
		t.Errorf("%v: %s", err, out)
	}
	requireNoTraces(t, d)
}

// runningImage is an image that says who it runs as, where, and with what.
func runningImage(t *testing.T) v1.Image {
	t.Helper()
	passwd := "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home:/bin/sh\n"
	files := append(busyboxFiles(t)[:1], // without its own passwd
		file{path: "bin/sh", mode: 0o777, link: "busybox"},
		file{path: "etc/passwd", mode: 0o777, link: "/usr/lib/passwd"}, // within the image, and not the host's
		file{path: "usr/lib/passwd", mode: 0o644, body: []byte(passwd)},
		file{path: "etc/group", mode: 0o644, body: []byte("root:x:0:\napp:x:1001:\nextra:x:77:root,app\n")})
	image := ociImage(t, "amd64", layer(t, types.OCILayer, files...))
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Config.User, config.Config.WorkingDir = "app", "/usr/lib"
	config.Config.Env = []string{"GREETING=hello there"}
	config.Config.Entrypoint, config.Config.Cmd = []string{"/bin/sh", "-c"}, []string{`echo "$(busybox id) $PWD $GREETING"`}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	return image
}

// runc starts a bundle as it is: who, where, with what and which command, as the image says or as it is told.
func TestRuncStartsABundle(t *testing.T) {
	upstream := startRegistry(t, nil)
	upstream.push(t, "team/running:1", runningImage(t))
	d := newMountingDaemon(t, upstream.url())
	ref := upstreamName + "/team/running:1"
	for i, test := range []struct {
		args   []string
		prints string
	}{
		{nil, "uid=1000(app) gid=1001(app) groups=77(extra) /usr/lib hello there\n"},
		{[]string{"--", `echo "told: $GREETING"`}, "told: hello there\n"},
		{[]string{"--read-only", "--", "busybox touch /new 2>&1 || true"}, "touch: /new: Read-only file system\n"},
	} {
		dir := filepath.Join(d.dir, fmt.Sprint("bundle", i))
		d.mustRun(t, append([]string{"bundle", ref, dir}, test.args...)...)
		if got := runBundle(t, d, dir); !strings.HasSuffix(got, test.prints) {
			t.Errorf("%v: runc printed %q, want %q", test.args, got, test.prints)
		}
		if i == 0 {
			d.proc.kill() // it starts again, and while nobody is there
			if got := runBundle(t, d, dir); got != test.prints {
				t.Errorf("without imagecache runc printed %q", got)
			}
			d.start(t)
		}
		d.mustRun(t, "umount", dir)
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("the bundle's folder holds %v, %v", left, err)
		}
	}
	requireNoTraces(t, d)
}

// runBundle has runc run a bundle to its end, and gives what it printed.
func runBundle(t *testing.T, d *daemon, dir string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	id := filepath.Base(d.dir) + "-" + filepath.Base(dir)
	cmd := exec.CommandContext(ctx, debian("runc"), "--root", filepath.Join(d.dir, "runc"), "run", "--bundle", dir, id)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("runc run: %v\n%s%s", err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

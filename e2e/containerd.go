//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
)

// containerdVersion is one of the containerds that the tests run.
type containerdVersion struct {
	name    string
	program func(name string) string // where its programs are
}

// The oldest that is in wide use, and the newest. From 2.0 on it is the daemon that pulls, through its transfer service.
var (
	containerd16 = containerdVersion{"containerd-1.6", debian}
	containerd24 = containerdVersion{"containerd-2.4", built}
)

// containerd is a daemon of its own: nothing of it is shared with another one on the machine but runc.
type containerd struct {
	version     containerdVersion
	dir         string
	socket      string
	hosts       string // what is certs.d elsewhere
	snapshotter string
	namespace   string // that ctr works in; "": its default
	kubernetes  bool   // it has its CRI plugin
	containers  int
	proc        *process
}

// startContainerd starts a containerd with an empty store that gets everything from an imagecache, by the hosts.toml that imagecache writes.
// It has no other place to go: nobody told it credentials, and registry.test resolves nowhere.
func startContainerd(t *testing.T, version containerdVersion, mirror *daemon) *containerd {
	t.Helper()
	c := startContainerdAlone(t, version)
	mirror.install(t, c.hosts)
	return c
}

// startContainerdAlone starts a containerd with an empty store that knows of no mirror yet.
func startContainerdAlone(t *testing.T, version containerdVersion) *containerd {
	t.Helper()
	c := newContainerd(t, version)
	c.writeSettings(t)
	c.start(t)
	return c
}

// newContainerd makes the folder of a containerd that is not started yet, and has no settings.
func newContainerd(t *testing.T, version containerdVersion) *containerd {
	t.Helper()
	dir, err := os.MkdirTemp(scratch, "cd-")
	if err != nil {
		t.Fatal(err)
	}
	c := &containerd{version: version, dir: dir, socket: filepath.Join(dir, "s"), hosts: filepath.Join(dir, "hosts"), snapshotter: "native"}
	if overlayWorks() {
		c.snapshotter = "overlayfs"
	}
	t.Cleanup(func() { c.remove(t) }) // runs after the daemon has ended
	return c
}

func (c *containerd) config() string { return filepath.Join(c.dir, "config.toml") }

func (c *containerd) writeSettings(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(c.config(), []byte(c.settings()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start starts the containerd, for the first time or again, and waits until it answers.
func (c *containerd) start(t *testing.T) {
	t.Helper()
	version := c.version
	cmd := exec.Command(version.program("containerd"), "--config", c.config())
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(version.program("containerd"))+":"+filepath.Dir(debian("runc"))+":"+os.Getenv("PATH"))
	c.proc = start(t, version.name, cmd)
	eventually(t, version.name+" answers", func() error {
		if c.proc.ended() {
			t.Fatalf("%s ended:\n%s", version.name, c.proc.tail())
		}
		out, err := exec.Command(version.program("ctr"), "--address", c.socket, "version").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// settings are containerd's: everything in its own folder, and nothing of Kubernetes unless it is wanted. Version 2 is understood by every
// containerd.
func (c *containerd) settings() string {
	disabled := []string{
		"io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
	}
	kubernetes := ""
	if c.kubernetes {
		kubernetes = c.criSettings()
	} else {
		disabled = append(disabled, "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
			"io.containerd.podsandbox.controller.v1.podsandbox")
	}
	return fmt.Sprintf(`
version = 2
root = %q
state = %q
disabled_plugins = ["%s"]
[grpc]
  address = %q
[plugins."io.containerd.transfer.v1.local"]
  [[plugins."io.containerd.transfer.v1.local".unpack_config]]
    platform = "linux/amd64"
    snapshotter = %q
%s`, filepath.Join(c.dir, "root"), filepath.Join(c.dir, "state"), strings.Join(disabled, `", "`), c.socket, c.snapshotter, kubernetes)
}

// ctr runs containerd's client.
func (c *containerd) ctr(t *testing.T, args ...string) string {
	t.Helper()
	own := []string{"--address", c.socket}
	if c.namespace != "" {
		own = append(own, "--namespace", c.namespace)
	}
	return output(t, c.version.program("ctr"), append(own, args...)...)
}

// pull pulls a reference and unpacks it.
func (c *containerd) pull(t *testing.T, reference string) {
	t.Helper()
	c.ctr(t, "images", "pull", "--hosts-dir", c.hosts, "--snapshotter", c.snapshotter, reference)
}

// run runs a command in a new container of a pulled image and gives what it printed.
func (c *containerd) run(t *testing.T, reference string, command ...string) (output string) {
	t.Helper()
	// On a busy machine ctr may end before the output of a container that ended
	// at once has come: every program that is run here prints something.
	for range 3 {
		c.containers++
		id := fmt.Sprintf("%s-%d", filepath.Base(c.dir), c.containers)
		args := []string{"run", "--rm", "--snapshotter", c.snapshotter, reference, id}
		if output = c.ctr(t, append(args, command...)...); output != "" {
			break
		}
	}
	return output
}

// digest gives the digest that containerd keeps under a reference.
func (c *containerd) digest(t *testing.T, reference string) digest.Digest {
	t.Helper()
	for line := range strings.Lines(c.ctr(t, "images", "ls")) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] == reference {
			return digest.Digest(fields[2])
		}
	}
	t.Fatalf("%s has no image %s", c.version.name, reference)
	return ""
}

// remove takes away what a containerd leaves behind: mounts first, those that lie deeper before those that hold them.
func (c *containerd) remove(t *testing.T) {
	unmountUnder(t, c.dir)
	if err := os.RemoveAll(c.dir); err != nil {
		t.Error(err)
	}
}

// unmountUnder unmounts everything under a folder.
func unmountUnder(t *testing.T, dir string) {
	t.Helper()
	mounts := mountsUnder(t, dir)
	slices.Reverse(mounts)
	for _, mount := range mounts {
		if err := syscall.Unmount(mount, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmounting %s: %v", mount, err)
		}
	}
}

// mountsUnder gives the mount points under a folder, in the order in which they were mounted.
func mountsUnder(t *testing.T, dir string) []string {
	t.Helper()
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var mounts []string
	for line := range strings.Lines(string(info)) {
		// The fifth field is the mount point (proc(5)).
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			mounts = append(mounts, fields[4])
		}
	}
	return mounts
}

// overlayWorks tells whether an overlay can be mounted in the scratch folder: it cannot where that lies on an overlay itself.
var overlayWorks = sync.OnceValue(func() bool {
	dir, err := os.MkdirTemp(scratch, "overlay-")
	if err != nil {
		return false
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			return false
		}
	}
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)
	merged := filepath.Join(dir, "merged")
	if err := syscall.Mount("overlay", merged, "overlay", 0, options); err != nil {
		return false
	}
	return syscall.Unmount(merged, 0) == nil
})

// exec runs a command in a container that runs, and gives what it printed.
func (c *containerd) exec(t *testing.T, id string, command ...string) string {
	t.Helper()
	c.containers++
	return c.ctr(t, append([]string{"task", "exec", "--exec-id", fmt.Sprintf("exec-%d", c.containers), id}, command...)...)
}

// destroy ends a container that runs, and removes it.
func (c *containerd) destroy(t *testing.T, id string) {
	t.Helper()
	c.ctr(t, "task", "rm", "--force", id)
	c.ctr(t, "containers", "rm", id)
}

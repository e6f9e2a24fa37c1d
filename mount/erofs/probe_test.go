package erofs_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/mount/erofs"
)

// probeDir makes the test binary probe that folder again and again.
const probeDir = "IMAGECACHE_TEST_PROBE_DIR"

func TestMain(m *testing.M) {
	dir := os.Getenv(probeDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	for {
		fmt.Println(erofs.ProbeOnly(dir, erofs.ThroughLoop, erofs.FromFile))
	}
}

// needLoop skips where there are no loop devices.
func needLoop(t *testing.T) erofs.Support {
	t.Helper()
	needMounts(t)
	s := erofs.ProbeOnly(filepath.Join(t.TempDir(), "probe"), erofs.ThroughLoop)
	if s.Way == erofs.None {
		t.Skip("NOT RUN: " + s.String())
	}
	return s
}

func TestAProbeSaysWhatWorksAndLeavesNothing(t *testing.T) {
	needMounts(t)
	dir := filepath.Join(t.TempDir(), "probe,with:odd\\name")
	s := erofs.Probe(dir)
	if s.Way == erofs.None || !strings.Contains(s.String(), "all work") {
		t.Error(s)
	}
	nothingLeft(t, dir)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Error("the folder is still there:", err)
	}
}

func TestAProbeWithoutRightsSaysSo(t *testing.T) {
	needMounts(t)
	dir, err := os.MkdirTemp("", "imagecache-probe-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	said := probeAs(t, filepath.Join(dir, "probe"), nobody)
	if !strings.Contains(said, "not mounted") || !strings.Contains(said, "takes root") {
		t.Error(said)
	}
}

// Where nobody else would see a mount, containers would find an empty folder.
func TestAProbeKnowsThatNobodySeesItsMounts(t *testing.T) {
	needMounts(t)
	apart := &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	said := probeAs(t, filepath.Join(t.TempDir(), "probe"), apart)
	if !strings.Contains(said, "not mounted") || !strings.Contains(said, "seen by no other") {
		t.Error(said)
	}
}

// prober starts the test binary anew, to probe dir again and again. The caller
// kills it.
func prober(t *testing.T, dir string, who *syscall.SysProcAttr) (kill func(), out io.Reader) {
	t.Helper()
	cmd := exec.Command(testBinary(t))
	cmd.Env = append(os.Environ(), probeDir+"="+dir)
	cmd.SysProcAttr = who
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		cmd.Process.Kill()
		cmd.Wait() // it was killed
	}, out
}

// probeAs tells what another process finds out.
func probeAs(t *testing.T, dir string, who *syscall.SysProcAttr) string {
	t.Helper()
	kill, out := prober(t, dir, who)
	defer kill()
	said, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return said
}

// testBinary is this program, where anybody may start it.
func testBinary(t *testing.T) string {
	t.Helper()
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "imagecache-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	copied := filepath.Join(dir, "probe.test")
	b, err := os.ReadFile(own)
	if err == nil {
		err = os.WriteFile(copied, b, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return copied
}

func TestAProbeThatIsKilledLeavesNothing(t *testing.T) {
	needLoop(t)
	dir := filepath.Join(t.TempDir(), "probe")
	for i := range 10 {
		kill, out := prober(t, dir, nil)
		go io.Copy(io.Discard, out)
		if i%2 == 0 {
			waitFor(t, "the image", func() bool { _, err := os.Stat(filepath.Join(dir, "layer.erofs")); return err == nil })
		} else {
			waitFor(t, "a loop device", func() bool { return leftBelow(t, dir) != "" })
		}
		kill()
		nothingLeft(t, dir)
	}
	if s := erofs.Probe(dir); s.Way == erofs.None {
		t.Error("after them:", s)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Error("what the killed left is still there:", err)
	}
}

func waitFor(t *testing.T, what string, there func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !there(); {
		if time.Now().After(end) {
			t.Fatal("there is never ", what)
		}
	}
}

// nothingLeft waits until nothing is mounted below dir and no loop device reads
// from there: a kernel clears these a moment after the last user is gone.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	var left string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if left = leftBelow(t, dir); left == "" {
			return
		}
	}
	t.Fatal("still there: ", left)
}

func leftBelow(t *testing.T, dir string) string {
	t.Helper()
	mounts, err := erofs.Below(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(mounts) > 0 {
		return fmt.Sprint(mounts)
	}
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, loop := range loops {
		if backing, err := os.ReadFile(loop); err == nil && strings.HasPrefix(string(backing), dir+"/") {
			return loop + " reads " + string(backing)
		}
	}
	return ""
}

// The kernel reads no file on tmpfs the way a mount of the file would, so there
// the next way is taken, and the answer says why.
func TestAProbeTakesTheNextWay(t *testing.T) {
	needLoop(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer erofs.Unmount(dir)
	s := erofs.Probe(filepath.Join(dir, "probe"))
	if s.Way == erofs.FromFile {
		t.Skip("NOT CHECKED: this kernel mounts files of tmpfs too")
	}
	if s.Way != erofs.ThroughLoop || !strings.Contains(s.String(), "from the file: ") {
		t.Error(s)
	}
	nothingLeft(t, filepath.Join(dir, "probe"))
}

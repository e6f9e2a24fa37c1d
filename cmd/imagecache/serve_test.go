package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// patience bounds every wait in these tests; it is never waited for when all is well.
const patience = 20 * time.Second

// runningDaemon is a real "imagecache serve" in a process of its own.
type runningDaemon struct {
	process *exec.Cmd
	log     *bytes.Buffer // to be read after the process has ended
	exited  chan error
	socket  string
	mirror  string
}

// startDaemon starts one and waits for its READY=1, as systemd would.
func startDaemon(t *testing.T, folder string, args ...string) *runningDaemon {
	t.Helper()
	program, err := exec.LookPath("imagecache") // testscript.Main put this test binary there under that name
	if err != nil {
		t.Fatal(err)
	}
	notified, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(folder, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notified.Close()
	empty := filepath.Join(folder, "empty.toml")
	writeFile(t, empty, "", 0o600)
	d := &runningDaemon{log: &bytes.Buffer{}, exited: make(chan error, 1), socket: filepath.Join(folder, "s")}
	d.mirror = registrytest.Port(t)
	d.process = exec.Command(program, append([]string{"serve", "--config", empty, "--root", filepath.Join(folder, "root"),
		"--listen", d.mirror, "--admin", unixScheme + d.socket}, args...)...)
	d.process.Env = append(os.Environ(), "NOTIFY_SOCKET="+notified.LocalAddr().String())
	d.process.Stderr = d.log
	if err := d.process.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { d.exited <- d.process.Wait() }()
	t.Cleanup(func() { _ = d.process.Process.Kill() }) // it has ended where the test went well
	said := make([]byte, 64)
	if err := notified.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	n, err := notified.Read(said)
	if err != nil || string(said[:n]) != "READY=1" {
		t.Fatalf("systemd hears %q, %v", said[:n], err)
	}
	if err := os.Remove(filepath.Join(folder, "notify")); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *runningDaemon) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := d.process.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// wait waits for the end and gives the exit status.
func (d *runningDaemon) wait(t *testing.T) int {
	t.Helper()
	select {
	case err := <-d.exited:
		var failed *exec.ExitError
		if err != nil && !errors.As(err, &failed) {
			t.Fatal(err)
		}
		return d.process.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatal("the daemon does not end")
		return 0
	}
}

// stallingUpstream serves one blob, of which it holds back the second half until released.
func stallingUpstream(t *testing.T) (url string, content []byte, release func()) {
	content = bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	path := "/v2/app/blobs/" + digest.FromBytes(content).String()
	released := make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != path {
			w.WriteHeader(http.StatusOK)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		if r.Method == http.MethodHead {
			return
		}
		_, _ = w.Write(content[:len(content)/2])
		_ = http.NewResponseController(w).Flush()
		select {
		case <-released:
			_, _ = w.Write(content[len(content)/2:])
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(upstream.Close)
	return upstream.URL, content, func() { close(released) }
}

// halfway starts a download through a daemon and returns when the first half is here.
func halfway(t *testing.T, d *runningDaemon, content []byte) *http.Response {
	t.Helper()
	response, err := http.Get("http://" + d.mirror + "/v2/up.example/app/blobs/" + digest.FromBytes(content).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	if response.StatusCode != http.StatusOK {
		t.Fatalf("the mirror answers %s", response.Status)
	}
	got := make([]byte, len(content)/4)
	if _, err := io.ReadFull(response.Body, got); err != nil {
		t.Fatal(err)
	}
	return response
}

// readiness asks /readyz at the administration address.
func (d *runningDaemon) readiness() int {
	client := newAdminClient(adminAddress{socket: d.socket}, os.Getuid())
	response, err := client.http.Get("http://imagecache/readyz")
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	return response.StatusCode
}

func TestSIGTERMLetsAnswersUnderWayEnd(t *testing.T) {
	url, content, release := stallingUpstream(t)
	d := startDaemon(t, ownFolder(t), "--upstream", "up.example="+url)
	if got := d.readiness(); got != http.StatusOK {
		t.Errorf("before: /readyz answers %d", got)
	}
	response := halfway(t, d, content)
	d.signal(t, syscall.SIGTERM)
	for end := time.Now().Add(patience); d.readiness() != http.StatusServiceUnavailable; {
		if time.Now().After(end) {
			t.Fatal("/readyz does not say that it drains")
		}
	}
	release()
	rest, err := io.ReadAll(response.Body)
	if err != nil || !bytes.Equal(rest, content[len(content)/4:]) {
		t.Errorf("the answer under way ends with %d bytes and %v", len(rest), err)
	}
	if code := d.wait(t); code != exitDone {
		t.Errorf("exit status %d\n%s", code, d.log)
	}
	if exists(d.socket) {
		t.Error("the socket is left")
	}
}

func TestASecondSIGTERMEndsAtOnce(t *testing.T) {
	url, content, _ := stallingUpstream(t)
	d := startDaemon(t, ownFolder(t), "--upstream", "up.example="+url)
	response := halfway(t, d, content)
	d.signal(t, syscall.SIGTERM)
	for end := time.Now().Add(patience); d.readiness() != http.StatusServiceUnavailable; {
		if time.Now().After(end) {
			t.Fatal("/readyz does not say that it drains")
		}
	}
	d.signal(t, syscall.SIGTERM)
	if code := d.wait(t); code != exitFailed {
		t.Errorf("exit status %d\n%s", code, d.log)
	}
	if _, err := io.ReadAll(response.Body); err == nil {
		t.Error("a body that was cut ends as if it were whole")
	}
}

func TestADrainEndsInTime(t *testing.T) {
	url, content, _ := stallingUpstream(t)
	d := startDaemon(t, ownFolder(t), "--upstream", "up.example="+url, "--drain-timeout", "10ms")
	response := halfway(t, d, content)
	d.signal(t, syscall.SIGTERM)
	if code := d.wait(t); code != exitDone {
		t.Errorf("exit status %d\n%s", code, d.log)
	}
	if _, err := io.ReadAll(response.Body); err == nil {
		t.Error("a body that was cut ends as if it were whole")
	}
	if !strings.Contains(d.log.String(), "answers under way were cut") {
		t.Errorf("the log does not tell:\n%s", d.log)
	}
}

func TestAfterKillItStartsAgainAtTheSameSocket(t *testing.T) {
	folder := ownFolder(t)
	first := startDaemon(t, folder)
	first.signal(t, syscall.SIGKILL)
	first.wait(t)
	if !exists(first.socket) {
		t.Fatal("kill -9 left no socket: this test shows nothing")
	}
	second := startDaemon(t, folder)
	if code, out, complaints := command(t.Context(), adminAddress{socket: second.socket}, "status"); code != exitDone {
		t.Errorf("exit status %d: %s%s", code, out, complaints)
	}
	second.signal(t, syscall.SIGINT)
	if code := second.wait(t); code != exitDone {
		t.Errorf("exit status %d\n%s", code, second.log)
	}
}

func TestTheDaemonsFilesAreItsUsersOnly(t *testing.T) {
	folder := ownFolder(t)
	d := startDaemon(t, folder)
	for name, want := range map[string]os.FileMode{d.socket: 0o600, filepath.Join(folder, "root"): 0o700} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", name, info.Mode().Perm(), want)
		}
	}
	d.signal(t, syscall.SIGTERM)
	d.wait(t)
}

func TestCheckTellsThatAPullPassesThrough(t *testing.T) {
	manifest := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",` +
		`"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}`)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v2/team/app/manifests/1", "/v2/team/app/manifests/" + digest.FromBytes(manifest).String():
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			w.Header().Set("Docker-Content-Digest", digest.FromBytes(manifest).String())
			w.Header().Set("Content-Length", fmt.Sprint(len(manifest)))
			if r.Method == http.MethodGet {
				_, _ = w.Write(manifest)
			}
		case "/v2/":
			w.WriteHeader(http.StatusOK)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(upstream.Close)
	name := strings.TrimPrefix(upstream.URL, "http://")
	folder := ownFolder(t)
	d := startDaemon(t, folder, "--upstream", name+"="+upstream.URL)
	configPath := filepath.Join(folder, "certs.d")
	mustInstall(t, configPath, "", hostsMirror{url: "http://" + d.mirror, dialTimeout: time.Second})
	check := func(reference string) (int, string) {
		code, out, complaints := command(t.Context(), adminAddress{socket: d.socket},
			"containerd", "check", "--config-path", configPath, "--mirror", "http://"+d.mirror, name+reference)
		return code, out + complaints
	}
	code, said := check("/team/app:1")
	if code != exitDone || !strings.Contains(said, "answers 200 ok, "+digest.FromBytes(manifest).String()) || !strings.Contains(said, "a pull passes through this cache") {
		t.Errorf("exit status %d\n%s", code, said)
	}
	code, said = check("/team/other:1")
	if code != exitFailed || !strings.Contains(said, "answers 404 not found, so containerd goes on to the next host") {
		t.Errorf("of an image that is nowhere: exit status %d\n%s", code, said)
	}
	d.signal(t, syscall.SIGTERM)
	d.wait(t)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/imagecache/imagecache/registry"
)

// daemonAt serves a handler at a unix socket, as the daemon does.
func daemonAt(t *testing.T, handler http.Handler) adminAddress {
	t.Helper()
	address := adminAddress{socket: filepath.Join(ownFolder(t), "s")}
	listener, err := net.Listen("unix", address.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // it ends by Close below
	}()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
	return address
}

// command runs a command line against a daemon.
func command(ctx context.Context, address adminAddress, args ...string) (code int, out, complaints string) {
	var stdout, stderr strings.Builder
	c := &cli{in: strings.NewReader(""), out: &stdout, err: &stderr, uid: os.Getuid(),
		now: func() time.Time { return time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC) }}
	code = c.execute(ctx, append(args, "--admin", address.String()))
	return code, stdout.String(), stderr.String()
}

func TestPinFollowsItsStreamAndPrintsTheResult(t *testing.T) {
	var asked string
	address := daemonAt(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = r.Method + " " + r.URL.Path + " " + string(body)
		fmt.Fprintln(w, `{"progress":{"reference":"docker.io/library/a:1","phase":"fetch","blobs_done":1,"blobs_total":2,"bytes_done":10,"bytes_total":20}}`)
		fmt.Fprintln(w, `{"pin":{"reference":"docker.io/library/a:1","digest":"sha256:abc","platforms":["linux/amd64"],"complete":true,"have":2,"want":2,"size":20,"new":"kept"}}`)
	}))
	code, out, progress := command(t.Context(), address, "pin", "a:1", "--platform", "linux/amd64")
	if code != exitDone {
		t.Fatalf("exit status %d: %s", code, progress)
	}
	if want := `POST /api/v1/pins {"reference":"a:1","platforms":["linux/amd64"]}`; asked != want {
		t.Errorf("asked %s\nwant  %s", asked, want)
	}
	if want := "docker.io/library/a:1 -> sha256:abc, linux/amd64, complete, 20B\n"; out != want {
		t.Errorf("printed %q, want %q", out, want)
	}
	if want := "docker.io/library/a:1  50%  1/2 blobs  10B/20B\n"; progress != want {
		t.Errorf("progress is %q, want %q", progress, want)
	}
	if _, out, _ := command(t.Context(), address, "pin", "a:1", "-o", "json"); !strings.Contains(out, `"new": "kept"`) {
		t.Errorf("JSON lost what this program does not know: %s", out)
	}
}

func TestOneThatFailsDoesNotStopTheOthers(t *testing.T) {
	address := daemonAt(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.Contains(string(body), "bad") {
			fmt.Fprintln(w, `{"error":{"code":"MANIFEST_UNKNOWN","message":"upstream has no such manifest"}}`)
			return
		}
		fmt.Fprintln(w, `{"image":{"reference":"good","digest":"sha256:abc","complete":false,"have":1,"want":2}}`)
	}))
	code, out, complaints := command(t.Context(), address, "pull", "one", "bad", "two")
	if code != exitFailed {
		t.Errorf("exit status %d", code)
	}
	if strings.Count(out, "good -> sha256:abc, 1 of 2") != 2 {
		t.Errorf("printed %q", out)
	}
	if want := "imagecache: bad: upstream has no such manifest\n"; complaints != want {
		t.Errorf("complained %q, want %q", complaints, want)
	}
}

func TestAStreamThatBreaksOffIsAFailure(t *testing.T) {
	address := daemonAt(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, `{"progress":{"reference":"a","phase":"fetch","blobs_done":3,"blobs_total":7}}`)
	}))
	code, _, complaints := command(t.Context(), address, "pin", "a")
	if code != exitFailed || !strings.Contains(complaints, "broke off before it was done with 3 of 7 blobs here") || !strings.Contains(complaints, "imagecache pins") {
		t.Errorf("exit status %d, complained %q", code, complaints)
	}
}

// interrupter takes what is written and calls a person's Ctrl-C once it has seen a word.
type interrupter struct {
	strings.Builder
	word      string
	interrupt func()
}

func (i *interrupter) Write(p []byte) (int, error) {
	n, err := i.Builder.Write(p)
	if strings.Contains(i.String(), i.word) {
		i.interrupt()
	}
	return n, err
}

func TestCtrlCTellsWhatHappened(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	left := make(chan struct{})
	address := daemonAt(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, `{"progress":{"reference":"a","phase":"fetch","blobs_done":3,"blobs_total":7}}`)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(left)
	}))
	stderr := &interrupter{word: "3/7", interrupt: interrupt}
	c := &cli{in: strings.NewReader(""), out: io.Discard, err: stderr}
	code := c.execute(ctx, []string{"pull", "a", "b", "--admin", address.String()})
	if complaints := stderr.String(); code != exitFailed || !strings.Contains(complaints, "a: interrupted with 3 of 7 blobs here") || strings.Contains(complaints, "b:") {
		t.Errorf("exit status %d, complained %q", code, complaints)
	}
	<-left // the daemon hears of it
}

func TestErrorsOfTheDaemon(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		status     int
		code       int
		want       string
	}{
		{"a pinned image", `{"errors":[{"code":"PINNED","message":"docker.io/library/a:latest is pinned: unpin it first"}]}`, 409, exitFailed, "is pinned: unpin it first"},
		{"a bad name", `{"errors":[{"code":"NAME_INVALID","message":"bad name"}]}`, 400, exitMisuse, "bad name"},
		{"not ours", "<html>", 502, exitFailed, "502 Bad Gateway"},
		{"what would draw on a terminal", `{"errors":[{"message":"\u001b[31mred"}]}`, 500, exitFailed, `\x1b[31mred`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			address := daemonAt(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tt.status)
				fmt.Fprint(w, tt.body)
			}))
			code, _, complaints := command(t.Context(), address, "rm", "a")
			if code != tt.code || !strings.Contains(complaints, tt.want) {
				t.Errorf("exit status %d, complained %q", code, complaints)
			}
		})
	}
}

func TestASocketWithoutRightNamesItsOwner(t *testing.T) {
	if os.Getuid() == 0 {
		// Root may everything: what the dial would answer is put in its place.
		a := newAdminClient(adminAddress{socket: filepath.Join(ownFolder(t), "s")}, 1000)
		err := a.explain(t.Context(), &net.OpError{Op: "dial", Err: os.ErrPermission})
		if err == nil || !strings.Contains(err.Error(), "belongs to root") {
			t.Errorf("got %v", err)
		}
		return
	}
	address := daemonAt(t, http.NotFoundHandler())
	if err := os.Chmod(address.socket, 0); err != nil {
		t.Fatal(err)
	}
	if code, _, complaints := command(t.Context(), address, "status"); code != exitFailed || !strings.Contains(complaints, "belongs to") {
		t.Errorf("exit status %d, complained %q", code, complaints)
	}
}

func TestPinsShowDrift(t *testing.T) {
	address := daemonAt(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RequestURI() != "/api/v1/pins?drift=true" {
			t.Errorf("asked %s", r.URL.RequestURI())
		}
		fmt.Fprint(w, `{"pins":[
			{"reference":"docker.io/library/a:1","digest":"sha256:aaaaaaaaaaaaaaaa","platforms":["linux/amd64"],"have":7,"want":9,"size":1048576,"pinned_at":"2026-01-01T10:00:00Z","drift":"moved","upstream_digest":"sha256:bbbbbbbbbbbbbbbb"},
			{"reference":"quay.io/b:2","digest":"sha256:cccccccccccccccc","complete":true,"pinned_at":"2026-01-01T10:00:00Z","drift":"unknown","drift_reason":"no answer"}]}`)
	}))
	code, out, complaints := command(t.Context(), address, "pins", "--drift")
	want := `REFERENCE               DIGEST         PLATFORMS     STATE      SIZE   PINNED        UPSTREAM
docker.io/library/a:1   aaaaaaaaaaaa   linux/amd64   7 of 9     1MiB   2 hours ago   moved to bbbbbbbbbbbb
quay.io/b:2             cccccccccccc   -             complete   0B     2 hours ago   unknown: no answer
`
	if code != exitDone || out != want {
		t.Errorf("exit status %d, printed\n%swant\n%s%s", code, out, want, complaints)
	}
}

func TestCompletionOffersWhatTheDaemonKnows(t *testing.T) {
	address := daemonAt(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"pins":[{"reference":"docker.io/library/a:1"},{"reference":"quay.io/b:2"}]}`)
	}))
	var out strings.Builder
	c := &cli{in: strings.NewReader(""), out: &out, err: io.Discard}
	c.execute(t.Context(), []string{"__complete", "--admin", address.String(), "unpin", "docker.io/"})
	if !strings.HasPrefix(out.String(), "docker.io/library/a:1\n:4\n") {
		t.Errorf("offers %q", out.String())
	}
}

func TestStreamGivesUpOnWhatIsNotALine(t *testing.T) {
	address := daemonAt(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "<html>") }))
	_, err := newAdminClient(address, 0).stream(t.Context(), "/api/v1/pull", wanted{}, func(registry.Progress) {})
	if err == nil || errors.Is(err, errBrokenOff) || !strings.Contains(err.Error(), "not understood") {
		t.Errorf("got %v", err)
	}
}

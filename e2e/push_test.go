//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestClientsPush: each client pushes, lists, pulls, copies within the registry, and deletes, on plain http and with TLS, a login and rules.
func TestClientsPush(t *testing.T) {
	for name, start := range map[string]func(*testing.T) *home{"open": startHome, "locked": startLockedHome} {
		t.Run(name, func(t *testing.T) {
			h := start(t)
			for n, c := range pushClients() {
				t.Run(c.name, func(t *testing.T) { c.life(t, h, uint64(n)) })
			}
			t.Run("containerd", func(t *testing.T) { containerdPushes(t, h) })
			h.requireTrueStore(t)
		})
	}
}

// life is that of one image, by one client. Each client has an image of its own, so that none finds the blobs of another.
func (c pushClient) life(t *testing.T, h *home, seed uint64) {
	if c.prepare != nil {
		c.prepare(t, h)
	}
	image := ociImage(t, "amd64", layer(t, "application/vnd.oci.image.layer.v1.tar+gzip", file{path: "content", mode: 0o644, body: randomBytes(1<<20, 900+seed)}))
	d, repository := digestOf(t, image), c.name+"/app"
	c.push(t, h, layoutOf(t, image), repository+":v1")
	if tags := c.list(t, h, repository); !slices.Equal(tags, []string{"v1"}) {
		t.Errorf("tags: %q", tags)
	}
	if got := c.pull(t, h, repository+":v1"); got != d {
		t.Errorf("pulled %s, want %s", got, d)
	}
	c.copy(t, h, repository+":v1", c.name+"/copy:v2")
	h.requireMounted(t, c.name+"/copy", 1)
	if got := c.pull(t, h, c.name+"/copy:v2"); got != d {
		t.Errorf("pulled %s of the copy, want %s", got, d)
	}
	c.remove(t, h, c.name+"/copy", "v2", d)
	h.requireGone(t, c.name+"/copy", "v2", d)
	if got := c.pull(t, h, repository+":v1"); got != d {
		t.Errorf("after the copy is deleted: %s", got)
	}
}

// containerdPushes: containerd has no list and no deletion. It mounts where it knows the repository that a blob came from.
func containerdPushes(t *testing.T, h *home) {
	c := startContainerdAlone(t, containerd24)
	hosts := []string{"--hosts-dir", h.hostsFor(t)}
	if h.user != "" {
		hosts = append(hosts, "--user", homeUser+":"+homePassword)
	}
	image := busyboxImage(t, "pushed by containerd")
	archive := filepath.Join(t.TempDir(), "image.tar")
	output(t, "/bin/tar", "-C", layoutOf(t, image), "-cf", archive, ".")
	ref, copied := h.ref("containerd/app:v1"), h.ref("containerd/copy:v1")
	c.ctr(t, "images", "import", "--index-name", ref, "--local", archive)
	run := func(args ...string) { c.ctr(t, append(append([]string{"images", args[0]}, hosts...), args[1:]...)...) }
	run("push", ref, ref)
	c.ctr(t, "images", "rm", "--sync", ref)
	run("pull", "--platform", "linux/amd64", ref)
	c.ctr(t, "images", "tag", ref, copied)
	run("push", copied, copied)
	h.requireMounted(t, "containerd/copy", 1)
	c.ctr(t, "images", "rm", "--sync", ref, copied)
	run("pull", "--platform", "linux/amd64", copied)
	if out := c.run(t, copied); !strings.Contains(out, "pushed by containerd") {
		t.Errorf("the container says %q", out)
	}
}

// TestLockedHomeIsLocked: without its password clients get nothing and may nothing.
func TestLockedHomeIsLocked(t *testing.T) {
	h := startLockedHome(t)
	crane := built("crane")
	h.run(t, crane, "push", layoutOf(t, randomImage(t, 1000, 950)), h.ref("team/app:v1"))
	write(t, filepath.Join(h.dir, "config.json"), []byte("{}"))
	for _, args := range [][]string{
		{"digest", h.ref("team/app:v1")}, {"ls", h.ref("team/app")}, {"delete", h.ref("team/app:v1")}, {"tag", h.ref("team/app:v1"), "v2"}, {"catalog", h.addr},
	} {
		if out, err := h.try(t, crane, args...); err == nil && strings.Contains(out, "team") {
			t.Errorf("crane %q without a password: %s", args, out)
		}
	}
	if status, err := h.head(t, "team/app", "v1"); err != nil || status != http.StatusOK {
		t.Errorf("with the password: %d, %v", status, err)
	}
}

// TestArtifactsOfClients: what regctl attaches, oras-go finds, and the other way round.
func TestArtifactsOfClients(t *testing.T) {
	h := startHome(t)
	regctl := regctlClient()
	regctl.prepare(t, h)
	regctl.push(t, h, layoutOf(t, randomImage(t, 1000, 960)), "team/app:v1")
	note := filepath.Join(t.TempDir(), "note")
	write(t, note, []byte("attached"))
	h.run(t, built("regctl"), "artifact", "put", "--artifact-type", "application/note", "--file", note, "--subject", h.ref("team/app:v1"))
	r := orasRepository(t, h, "team/app")
	subject, err := r.Resolve(t.Context(), "v1")
	if err != nil {
		t.Fatal(err)
	}
	var found []specs.Descriptor
	if err := r.Referrers(t.Context(), subject, "application/note", func(list []specs.Descriptor) error { found = append(found, list...); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || found[0].ArtifactType != "application/note" {
		t.Fatalf("oras-go finds %+v", found)
	}
	if got := h.run(t, built("regctl"), "artifact", "get", h.ref("team/app@"+found[0].Digest.String())); got != "attached" {
		t.Errorf("regctl gets %q", got)
	}
	if err := r.Delete(t.Context(), found[0]); err != nil {
		t.Fatal(err)
	}
	if list := h.run(t, built("regctl"), "artifact", "list", h.ref("team/app:v1")); strings.Contains(list, found[0].Digest.String()) {
		t.Errorf("regctl still lists %s", list)
	}
}

// TestKillNineMidUpload: an upload goes on over kill -9 from where it is said to be, and what had come of the piece that was being sent is there.
func TestKillNineMidUpload(t *testing.T) {
	h := startHome(t)
	content := randomBytes(24<<20, 970)
	d := digest.FromBytes(content)
	at := h.send(t, http.MethodPost, "/v2/local/app/blobs/uploads/", nil, "", http.StatusAccepted).Header.Get("Location")
	const piece = 8 << 20
	h.send(t, http.MethodPatch, at, bytes.NewReader(content[:piece]), span(0, piece), http.StatusAccepted)
	// The second piece is cut in its midst.
	halfway, told := make(chan struct{}), make(chan struct{})
	go func() {
		body := io.MultiReader(bytes.NewReader(content[piece:piece+piece/2]), &blocking{reached: halfway, until: told})
		_, _ = h.do(t.Context(), http.MethodPatch, at, body, "") // it breaks off
	}()
	await(t, halfway, 1)
	stands := func() (last int) {
		t.Helper()
		span := h.send(t, http.MethodGet, at, nil, "", http.StatusNoContent).Header.Get("Range")
		if _, err := fmt.Sscanf(span, "0-%d", &last); err != nil {
			t.Fatalf("Range %q: %v", span, err)
		}
		return last
	}
	var came int
	eventually(t, "some of the second piece has come", func() error {
		if came = stands() + 1; came <= piece {
			return fmt.Errorf("%d bytes", came)
		}
		return nil
	})
	h.proc.kill()
	close(told)
	h.daemon.start(t)
	last := stands()
	if last+1 < came || last+1 > piece+piece/2 {
		t.Fatalf("after kill -9 %d bytes are there, %d were before", last+1, came)
	}
	h.send(t, http.MethodPut, at+"?digest="+d.String(), bytes.NewReader(content[last+1:]), span(last+1, len(content)), http.StatusCreated)
	if _, err := homeClient(t, h).blob(t.Context(), "local/app", d, nil); err != nil {
		t.Error(err)
	}
	h.requireTrueStore(t)
}

// TestKillNineDuringPushes: while clients push one image after the other the daemon is killed, again and again. What a client was told is
// there is there, wholly; what it was not can be pushed again.
func TestKillNineDuringPushes(t *testing.T) {
	h := startHome(t)
	var mu sync.Mutex
	acknowledged := map[string]digest.Digest{}
	ctx, stop := context.WithCancel(t.Context())
	pushed := make(chan struct{}, 1000)
	var pushers sync.WaitGroup
	for p := range 3 {
		pushers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				tag := fmt.Sprintf("p%d-%d", p, n)
				d, err := h.pushOne(ctx, "app", tag, randomBytes(200_000, uint64(980+p*1000+n)))
				if err != nil {
					continue // the daemon was killed
				}
				mu.Lock()
				acknowledged[tag] = d
				mu.Unlock()
				pushed <- struct{}{}
			}
		})
	}
	for range 4 {
		await(t, pushed, 5)
		h.proc.kill()
		h.daemon.start(t)
	}
	stop()
	pushers.Wait()
	c := homeClient(t, h)
	for tag, d := range acknowledged {
		if got, err := c.pull(t.Context(), "local/app", tag); err != nil || got != d {
			t.Errorf("%s was acknowledged as %s: %s, %v", tag, d, got, err)
		}
	}
	t.Logf("%d acknowledged pushes over 4 kills", len(acknowledged))
	h.requireTrueStore(t)
}

// homeClient is the strict client, for paths with the home's name in front.
func homeClient(t *testing.T, h *home) *client {
	c := newClient(t, h.addr)
	c.ns = ""
	return c
}

func span(from, to int) string { return fmt.Sprintf("%d-%d", from, to-1) }

// do sends one request to the home and reads the answer to its end.
func (h *home) do(ctx context.Context, method, path string, body io.Reader, contentRange string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+h.addr+path, body)
	if err != nil {
		return nil, err
	}
	if contentRange != "" {
		req.Header.Set("Content-Range", contentRange)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp, errors.Join(err, resp.Body.Close())
}

func (h *home) send(t *testing.T, method, path string, body io.Reader, contentRange string, want int) *http.Response {
	t.Helper()
	resp, err := h.do(t.Context(), method, path, body, contentRange)
	if err != nil || resp.StatusCode != want {
		t.Fatalf("%s %s: %+v, %v; want %d", method, path, resp, err, want)
	}
	return resp
}

// pushOne pushes an image of one layer as the specification has it, and gives the digest that the home acknowledged.
func (h *home) pushOne(ctx context.Context, repository, tag string, layer []byte) (digest.Digest, error) {
	return h.pushBy(ctx, http.DefaultClient, repository, tag, layer)
}

func (h *home) pushBy(ctx context.Context, web *http.Client, repository, tag string, layer []byte) (digest.Digest, error) {
	config := []byte(`{"os":"linux","architecture":"amd64"}`)
	m := specs.Manifest{MediaType: specs.MediaTypeImageManifest}
	m.SchemaVersion = 2
	for _, content := range [][]byte{config, layer} {
		d := digest.FromBytes(content)
		if _, err := ask(ctx, web, http.MethodPost, h.path(repository+"/blobs/uploads/?digest="+d.String()), bytes.NewReader(content)); err != nil {
			return "", err
		}
		m.Layers = append(m.Layers, specs.Descriptor{MediaType: specs.MediaTypeImageLayer, Digest: d, Size: int64(len(content))})
	}
	m.Config, m.Layers = m.Layers[0], m.Layers[1:]
	m.Config.MediaType = specs.MediaTypeImageConfig
	content := encode(m)
	_, err := ask(ctx, web, http.MethodPut, h.path(repository+"/manifests/"+tag), bytes.NewReader(content))
	return digest.FromBytes(content), err
}

// blocking is the end of a body that does not come before it is told to. It says when it is reached.
type blocking struct {
	reached chan struct{}
	until   chan struct{}
	once    sync.Once
}

func (b *blocking) Read([]byte) (int, error) {
	b.once.Do(func() { close(b.reached) })
	<-b.until
	return 0, os.ErrClosed
}

//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// garden calls the image plugin as Garden does (DefaultCommandCreator and ImagePlugin of cloudfoundry/guardian): the extra arguments first, then
// the verb; # made a colon; what it reads is standard output alone.
type garden struct {
	d      *daemon
	folder string   // where root filesystems are mounted
	extra  []string // after garden-plugin
}

func newGarden(t *testing.T, d *daemon, extra ...string) *garden {
	t.Helper()
	g := &garden{d: d, folder: filepath.Join(d.dir, "g")}
	g.extra = append([]string{"garden-plugin", "--mounts", g.folder}, extra...)
	return g
}

// call gives standard output, and whether the plugin says that it went well.
func (g *garden) call(t *testing.T, args ...string) (string, bool) {
	t.Helper()
	out, err := g.d.command(t, append(append([]string{}, g.extra...), args...)...).Output()
	return string(out), err == nil
}

// create gives what Garden would tell its runtime.
func (g *garden) create(t *testing.T, args ...string) specs.Spec {
	t.Helper()
	out, ok := g.call(t, append([]string{"create"}, args...)...)
	var spec specs.Spec
	if err := json.Unmarshal([]byte(out), &spec); !ok || err != nil {
		t.Fatalf("create %v: %v\n%s", args, err, out)
	}
	if spec.Root == nil || spec.Process == nil {
		t.Fatalf("create %v answers %s", args, out)
	}
	return spec
}

// stats gives the bytes that are used, in all and by the container alone.
func (g *garden) stats(t *testing.T, handle string) (total, exclusive uint64) {
	t.Helper()
	out, ok := g.call(t, "stats", handle)
	var stats map[string]map[string]uint64
	if err := json.Unmarshal([]byte(out), &stats); !ok || err != nil {
		t.Fatalf("stats: %v\n%s", err, out)
	}
	return stats["disk_usage"]["total_bytes_used"], stats["disk_usage"]["exclusive_bytes_used"]
}

func (g *garden) delete(t *testing.T, handle string) {
	t.Helper()
	if out, ok := g.call(t, "delete", handle); !ok || out != "" {
		t.Errorf("delete %s answers %q", handle, out)
	}
}

// Garden's contract with an image that was pulled once, while its registry is away.
func TestGardenPlugin(t *testing.T) {
	upstream := startRegistry(t, nil)
	images := pair(t, upstream)
	d := newMountingDaemon(t, upstream.url())
	g := newGarden(t, d)
	image := "docker://" + upstreamName + "/team/first"
	g.create(t, image+":1", "warm")
	g.delete(t, "warm")
	upstream.proc.kill()

	for i, url := range []string{image + "#1", image + ":1", image + "#" + images[0].digest.String(), image + "@" + images[0].digest.String()} {
		handle := fmt.Sprintf("a/b-%d", i)
		spec := g.create(t, url, handle)
		if got := mustRead(t, filepath.Join(spec.Root.Path, "greeting")); got != images[0].prints {
			t.Errorf("%s holds %q", url, got)
		}
		if out, ok := g.call(t, "create", url, handle); ok || !strings.Contains(out, "already") {
			t.Errorf("a second one of the handle: %s", out)
		}
		mustWrite(t, filepath.Join(spec.Root.Path, "etc", "mine"), strings.Repeat("x", 50_000))
		if total, exclusive := g.stats(t, handle); exclusive < 50_000 || exclusive > 200_000 || total < exclusive+1<<20 {
			t.Errorf("used are %d and %d", total, exclusive)
		}
		g.delete(t, handle)
		g.delete(t, handle)
	}
	checkDiskLimit(t, g, image+":1")
	checkGardenErrors(t, g, image)
	checkLocalImages(t, g)
	if left, err := os.ReadDir(g.folder); err != nil || len(left) > 0 {
		t.Errorf("%s holds %v, %v", g.folder, left, err)
	}
	requireNoTraces(t, d)
}

// checkDiskLimit fills a root filesystem: as much as the limit leaves goes in, and not more.
func checkDiskLimit(t *testing.T, g *garden, image string) {
	t.Helper()
	const limit, slack = 24 << 20, 512 << 10 // what ext4 needs for the folders and maps of one large file
	for _, exclude := range []bool{true, false} {
		args := []string{"--disk-limit-size-bytes", fmt.Sprint(limit)}
		if exclude {
			args = append(args, "--exclude-image-from-quota")
		}
		spec := g.create(t, append(args, image, "limited")...)
		total, none := g.stats(t, "limited")
		want := int64(limit)
		if !exclude {
			want -= int64(total - none)
		}
		wrote := fill(t, filepath.Join(spec.Root.Path, "big"))
		if wrote > want || wrote < want-slack {
			t.Errorf("with the image excluded %v, %d bytes went in, of %d", exclude, wrote, want)
		}
		if _, exclusive := g.stats(t, "limited"); int64(exclusive) < wrote || int64(exclusive) > want {
			t.Errorf("%d bytes are said to be used, of %d written", exclusive, wrote)
		}
		g.d.restart(t)
		if err := os.Remove(filepath.Join(spec.Root.Path, "big")); err != nil {
			t.Error(err)
		}
		if _, exclusive := g.stats(t, "limited"); exclusive > slack {
			t.Errorf("%d bytes are said to be used when nothing is", exclusive)
		}
		g.delete(t, "limited")
	}
	if out, ok := g.call(t, "create", "--disk-limit-size-bytes", "1000", image, "small"); ok || !strings.Contains(out, "used up by the image") {
		t.Errorf("a limit below the image: %s", out)
	}
}

// fill writes until there is no room, and tells how much went in.
func fill(t *testing.T, path string) (n int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for piece := make([]byte, 64<<10); ; {
		k, err := f.Write(piece)
		n += int64(k)
		if err != nil {
			return n
		}
		if n > 1<<30 {
			t.Fatal("nothing limits it")
		}
	}
}

// checkGardenErrors wants errors on standard output, and nothing left behind.
func checkGardenErrors(t *testing.T, g *garden, image string) {
	t.Helper()
	for _, test := range []struct {
		args []string
		says string
	}{
		{[]string{"create", "docker://" + upstreamName + "/team/absent#1", "h"}, "not reachable"},
		{[]string{"create", "http://x/y", "h"}, "is no image"},
		{[]string{"create", "docker://user:secret@" + upstreamName + "/team/first#1", "h"}, "--username"},
		{[]string{"create", image + ":1", ".."}, "cannot be the handle"},
		{[]string{"create", "--disk-limit-size-bytes", "-1", image + ":1", "h"}, "want 0"},
		{[]string{"create", "--uid-mapping", "0", image + ":1", "h"}, "CONTAINER:HOST:SIZE"},
		{[]string{"create", image + ":1"}, "a handle"},
		{[]string{"create", "--nonsense", image + ":1", "h"}, "nonsense"},
		{[]string{"stats", "absent"}, "no root filesystem"},
	} {
		if test.args[0] == "create" && test.args[1] == "--uid-mapping" {
			test.args = append([]string{"--uid-mapping", "0", "create"}, test.args[3:]...)
		}
		out, ok := g.call(t, test.args...)
		if ok || !strings.Contains(out, test.says) || strings.Contains(out, "secret") {
			t.Errorf("%v: %v, %q", test.args, ok, out)
		}
	}
}

// checkLocalImages makes root filesystems of what lies on the cell.
func checkLocalImages(t *testing.T, g *garden) {
	t.Helper()
	dir := t.TempDir()
	tar := filepath.Join(dir, "rootfs.tar")
	if err := os.WriteFile(tar, tarOf(t, append(busyboxFiles(t), greeting("stack"))), 0o600); err != nil {
		t.Fatal(err)
	}
	output(t, built("crane"), "pull", "--format", "oci", "--insecure", g.d.addr+"/"+upstreamName+"/team/first:1", filepath.Join(dir, "layout"))
	for image, want := range map[string]string{tar: "stack\n", "oci://" + filepath.Join(dir, "layout"): "first\n"} {
		spec := g.create(t, image, "local")
		if got := mustRead(t, filepath.Join(spec.Root.Path, "greeting")); got != want {
			t.Errorf("%s holds %q", image, got)
		}
		g.delete(t, "local")
	}
}

// A container in a user namespace finds its files its own, and the image is not changed by it.
func TestGardenMapsOwners(t *testing.T) {
	upstream := startRegistry(t, nil)
	pair(t, upstream)
	d := newMountingDaemon(t, upstream.url())
	mapped := newGarden(t, d, "--uid-mapping", "0:4294967294:1", "--uid-mapping", "1:1:4294967293")
	plain := newGarden(t, d)
	image := "docker://" + upstreamName + "/team/first:1"
	for _, test := range []struct {
		g     *garden
		owner uint32
	}{{mapped, 4294967294}, {plain, 0}} {
		spec := test.g.create(t, image, "h")
		for _, path := range []string{"", "greeting", "bin/busybox"} {
			info, err := os.Stat(filepath.Join(spec.Root.Path, path))
			if err != nil {
				t.Fatal(err)
			}
			if got := info.Sys().(*syscall.Stat_t).Uid; got != test.owner {
				t.Errorf("/%s belongs to %d, want %d", path, got, test.owner)
			}
		}
		test.g.delete(t, "h")
	}
	requireNoTraces(t, d)
}

// An application's own login is shown to its registry, and is nowhere afterwards. Once shown, it starts while the registry is away.
func TestGardenShowsALoginAndForgetsIt(t *testing.T) {
	upstream := startRegistry(t, nil)
	images := pair(t, upstream)
	d := newDaemon(t, upstream.url())
	t.Cleanup(func() { unmountUnder(t, d.dir) })
	settings := strings.Split(mustRead(t, d.config()), "username = ")[0] // imagecache has no login of its own
	for _, access := range []string{"open", "proven"} {
		mustWrite(t, d.config(), settings+fmt.Sprintf("access = %q\n", access))
		d.start(t)
		g := newGarden(t, d)
		image := "docker://" + upstreamName + "/" + images[map[string]int{"open": 0, "proven": 1}[access]].tag
		if out, ok := g.call(t, "create", image, "none"); ok {
			t.Errorf("%s: without a login there is %s", access, out)
		}
		if out, ok := g.call(t, "create", "--username", puller, "--password", "a-wrong-secret", image, "wrong"); ok || strings.Contains(out, "a-wrong-secret") {
			t.Errorf("%s: with a wrong login there is %s", access, out)
		}
		login := []string{"--username", puller, "--password", pullerPassword, image}
		g.create(t, append(login, "first")...)
		g.delete(t, "first")
		upstream.proc.kill()
		// That the right was shown is written beside what was asked for.
		eventually(t, "it starts while its registry is away", func() error {
			if out, ok := g.call(t, append(append([]string{"create"}, login...), "again")...); !ok {
				return errors.New(out)
			}
			return nil
		})
		if _, err := os.Stat(filepath.Join(g.folder, "again", "rootfs", "greeting")); err != nil {
			t.Error(err)
		}
		g.delete(t, "again")
		requireNowhere(t, d, pullerPassword, "a-wrong-secret")
		d.proc.stop()
		if access == "open" {
			upstream = restartRegistry(t, upstream)
		}
	}
}

// requireNowhere wants secrets neither in the log nor in any file below the daemon's root.
func requireNowhere(t *testing.T, d *daemon, secrets ...string) {
	t.Helper()
	check := func(path string) {
		content, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		for _, secret := range secrets {
			if strings.Contains(string(content), secret) {
				t.Errorf("%s holds a password", path)
			}
		}
	}
	check(d.proc.log)
	err := filepath.WalkDir(d.root, func(path string, found fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // what was released is deleted meanwhile
			return nil
		}
		if err == nil && found.Type().IsRegular() {
			check(path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// restartRegistry starts a registry that was killed again, at its address.
func restartRegistry(t *testing.T, r *registry) *registry {
	t.Helper()
	again := *r
	again.proc = start(t, "docker-registry-again", r.proc.cmdAgain())
	eventually(t, "docker-registry answers again", func() error { return dial(r.addr) })
	return &again
}

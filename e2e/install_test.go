//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A containerd that has its own way to the registry gets imagecache put before it, goes on its own way while imagecache is dead, and has
// exactly what it had when imagecache is taken out again.
func TestContainerdInstall(t *testing.T) {
	for _, version := range []containerdVersion{containerd16, containerd24} {
		t.Run(version.name, func(t *testing.T) {
			upstream := startRegistry(t, nil)
			images := []*shipped{
				{tag: "team/first:1", what: busyboxImage(t, "first"), prints: "first\n"},
				{tag: "team/second:1", what: busyboxImage(t, "second"), prints: "second\n"},
			}
			for _, image := range images {
				image.digest = upstream.push(t, image.tag, image.what)
			}
			c := startContainerdAlone(t, version)
			own := fmt.Sprintf("# ours\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n  [host.%q.header]\n    Authorization = [%q]\n",
				upstream.url(), upstream.url(), string(basic(puller, pullerPassword)))
			hosts := filepath.Join(c.hosts, "_default", "hosts.toml")
			mustWrite(t, hosts, own)
			before := tree(t, c.hosts)

			d := startDaemon(t, upstream.url())
			d.install(t, c.hosts)
			images[0].mustArrive(t, c)
			requireServed(t, d, "team/first")
			mirror := []string{"--config-path", c.hosts, "--mirror", "http://" + d.addr}
			d.mustRun(t, append([]string{"containerd", "check", images[0].reference()}, mirror...)...)

			d.proc.kill()
			images[1].mustArrive(t, c)

			d.mustRun(t, "containerd", "uninstall", "--yes", "--config-path", c.hosts)
			if after := tree(t, c.hosts); after != before {
				t.Errorf("uninstall left\n%s\nwhere stood\n%s", after, before)
			}
		})
	}
}

// requireServed wants the daemon's access log to show that it served a manifest of a repository: otherwise the client went another way.
func requireServed(t *testing.T, d *daemon, repository string) {
	t.Helper()
	eventually(t, "imagecache's log shows a manifest of "+repository, func() error {
		log, err := os.ReadFile(d.proc.log)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(log)) {
			if strings.Contains(line, "/v2/"+repository+"/manifests/") && strings.Contains(line, fmt.Sprintf("status=%d", http.StatusOK)) {
				return nil
			}
		}
		return errors.New("it does not")
	})
}

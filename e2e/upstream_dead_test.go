//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// Point 2: what was pulled once is pulled and run again by tag while upstream is dead, by a containerd that has nothing, also after imagecache
// was started again. The row of the tag is older than its tag_ttl from the start, so that every answer has to do without upstream.
func TestUpstreamDead(t *testing.T) {
	for _, version := range []containerdVersion{containerd16, containerd24} {
		t.Run(version.name, func(t *testing.T) {
			upstream := startRegistry(t, nil)
			images := shipment(t)
			ship(t, upstream, images)
			d := startDaemon(t, upstream.url(), `tag_ttl = "1ms"`)
			arrive := func() {
				t.Helper()
				c := startContainerd(t, version, d)
				for _, image := range images {
					image.mustArrive(t, c)
				}
			}
			arrive()
			upstream.proc.kill()
			arrive()
			requireStale(t, d, "team/docker", "1")
			d.restart(t)
			arrive()
			requireStale(t, d, "team/docker", "1")
			d.requireTrueStore(t)
		})
	}
}

// requireStale wants an answer that admits that upstream could not be asked.
func requireStale(t *testing.T, d *daemon, repository, tag string) {
	t.Helper()
	answer, err := newClient(t, d.addr).manifest(t.Context(), repository, tag)
	if err != nil {
		t.Fatal(err)
	}
	if status := answer.header.Get("Cache-Status"); !strings.HasPrefix(status, "imagecache;") || !strings.Contains(status, "fwd=stale") {
		t.Errorf("Cache-Status of a tag while upstream is dead: %q", status)
	}
	if answer.header.Get("Age") == "" {
		t.Error("a stale answer has no Age")
	}
}

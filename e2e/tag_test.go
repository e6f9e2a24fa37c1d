//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// Point 3: a tag moves upstream. What is pinned stays, what is not follows, and the old digest can still be pulled.
func TestTagMoves(t *testing.T) {
	upstream := startRegistry(t, nil)
	before, after := busyboxImage(t, "before"), busyboxImage(t, "after")
	push := func(tag string, moved bool) digest.Digest {
		if moved {
			return upstream.push(t, "team/app:"+tag, after)
		}
		return upstream.push(t, "team/app:"+tag, before)
	}
	was := push("pinned", false)
	push("moving", false)
	d := startDaemon(t, upstream.url(), `tag_ttl = "1s"`)
	pinned, moving := upstreamName+"/team/app:pinned", upstreamName+"/team/app:moving"
	d.mustRun(t, "pin", pinned)
	c := newClient(t, d.addr)
	if got := c.mustPull(t, "team/app", "moving"); got != was {
		t.Fatalf("before the tag moved it was %s, want %s", got, was)
	}

	is := push("moving", true)
	push("pinned", true)
	requireTag(t, d, "moving", is)
	requireTag(t, d, "pinned", was)
	c.mustPull(t, "team/app", was.String())
	for _, version := range []containerdVersion{containerd16, containerd24} {
		daemon := startContainerd(t, version, d)
		for reference, prints := range map[string]string{pinned: "before\n", moving: "after\n", upstreamName + "/team/app@" + was.String(): "before\n"} {
			daemon.pull(t, reference)
			if got := daemon.run(t, reference); got != prints {
				t.Errorf("%s of %s printed %q, want %q", version.name, reference, got, prints)
			}
		}
	}
	requirePin(t, d, pinned, was, is)

	d.mustRun(t, "unpin", pinned)
	requireTag(t, d, "pinned", is)
}

// A pin made of what is cached needs no upstream, and holds over a restart.
func TestPinWhileUpstreamIsAway(t *testing.T) {
	upstream := startRegistry(t, nil)
	was := upstream.push(t, "team/app:pinned", busyboxImage(t, "before"))
	d := startDaemon(t, upstream.url(), `tag_ttl = "1ms"`)
	c := newClient(t, d.addr)
	c.mustPull(t, "team/app", "pinned")
	upstream.proc.kill()
	d.mustRun(t, "pin", upstreamName+"/team/app:pinned")
	requirePin(t, d, upstreamName+"/team/app:pinned", was, "")
	d.restart(t)
	if got := c.mustPull(t, "team/app", "pinned"); got != was {
		t.Errorf("the pinned tag is %s, want %s", got, was)
	}
	requirePin(t, d, upstreamName+"/team/app:pinned", was, "")
}

// requireTag waits until a tag is answered with a digest, and pulls it. It must not have been anything else on the way than what it was.
func requireTag(t *testing.T, d *daemon, tag string, want digest.Digest) {
	t.Helper()
	c := newClient(t, d.addr)
	eventually(t, "the tag "+tag+" is "+want.String(), func() error {
		answer, err := c.manifest(t.Context(), "team/app", tag)
		if err != nil {
			t.Fatal(err)
		}
		if answer.digest != want {
			return fmt.Errorf("it is %s", answer.digest)
		}
		return nil
	})
	c.mustPull(t, "team/app", tag)
}

// listedPin is what pins -o json says of a pin.
type listedPin struct {
	Reference      string        `json:"reference"`
	Digest         digest.Digest `json:"digest"`
	Complete       bool          `json:"complete"`
	Have           int           `json:"have"`
	Want           int           `json:"want"`
	Drift          string        `json:"drift"`
	UpstreamDigest digest.Digest `json:"upstream_digest"`
}

// requirePin wants one complete pin of a reference at a digest, and that its drift is told: upstream is at another digest, or, when that
// is "", could not be asked. The answer of the mirror says that it is pinned.
func requirePin(t *testing.T, d *daemon, reference string, at, upstreamAt digest.Digest) {
	t.Helper()
	var answer struct {
		Pins []listedPin `json:"pins"`
	}
	said := d.mustRun(t, "pins", "--drift", "-o", "json")
	if err := json.Unmarshal([]byte(said), &answer); err != nil {
		t.Fatalf("pins -o json printed what is not JSON: %v\n%s", err, said)
	}
	if len(answer.Pins) != 1 {
		t.Fatalf("want one pin:\n%s", said)
	}
	want := listedPin{Reference: reference, Digest: at, Complete: true, Have: answer.Pins[0].Want, Want: answer.Pins[0].Want,
		Drift: "unknown", UpstreamDigest: upstreamAt}
	if upstreamAt != "" {
		want.Drift = "moved"
	}
	if answer.Pins[0] != want || want.Want == 0 {
		t.Errorf("the pin is listed as %+v, want %+v", answer.Pins[0], want)
	}
	table := d.mustRun(t, "pins")
	if !strings.Contains(table, reference) {
		t.Errorf("pins does not name %s:\n%s", reference, table)
	}
	manifest, err := newClient(t, d.addr).manifest(t.Context(), "team/app", "pinned")
	if err != nil {
		t.Fatal(err)
	}
	if status := manifest.header.Get("Cache-Status"); manifest.digest != at || !strings.Contains(status, "detail=pinned") {
		t.Errorf("the mirror answers %s with Cache-Status %q", manifest.digest, status)
	}
}

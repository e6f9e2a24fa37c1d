package api

import (
	"strings"
	"testing"
	"time"

	"github.com/imagecache/imagecache/api/access"
)

// TestWhatAnonymousMayEverybodyMay: a credential takes nothing away from its
// bearer, and gives it no more than the rules that name it.
func TestWhatAnonymousMayEverybodyMay(t *testing.T) {
	g := newGuarded(t, access.Rules{
		{Who: []string{"anonymous"}, May: []access.Verb{access.Pull}, Repositories: []string{"local/free/*", "up.example/team/*"}},
		{Who: []string{"anonymous"}, May: []access.Verb{access.Push}, Repositories: []string{"local/inbox/*"}},
		{Who: []string{"user:bob"}, May: []access.Verb{access.Pull}, Repositories: []string{"up.example/team/*"}},
		{Who: []string{"user:root"}, May: []access.Verb{access.Pull, access.Push}, Repositories: []string{"local/**"}},
		{Who: []string{"user:ann"}, May: []access.Verb{access.Push}, Repositories: []string{"local/own/*"}},
	})
	d := digestOf("a blob")
	g.want(201, "POST", "local/free/app/blobs/uploads/?digest="+d, "a blob", as("root")...)
	layer := g.private.Layers[0].Digest.String()
	private := []string{"up.example/team/app/manifests/v1", "up.example/team/app/blobs/" + layer}
	for _, user := range []string{"", "ann", "bob", "root"} {
		g.want(200, "GET", "local/free/app/blobs/"+d, "", as(user)...)
		g.want(202, "POST", "local/inbox/"+"app/blobs/uploads/", "", as(user)...)
	}
	// What our own login brought is for bob, whom a rule names.
	for range 2 { // cold, then warm
		for _, path := range private {
			g.want(401, "GET", path, "")
			g.want(403, "GET", path, "", as("ann")...)
			g.want(200, "GET", path, "", as("bob")...)
		}
	}
	// A right to push is none to see what is mounted.
	g.want(202, "POST", "local/own/app/blobs/uploads/?mount="+layer+"&from=up.example/team/app", "", as("ann")...)
	g.want(201, "POST", "local/own/app/blobs/uploads/?mount="+d+"&from=local/free/app", "", as("ann")...)
}

// TestMatchTellsWhatAnonymousMaySeeOfWhatIsPrivate: nothing, to who is let look
// there by a rule for anonymous alone.
func TestMatchTellsWhatAnonymousMaySeeOfWhatIsPrivate(t *testing.T) {
	rules := access.Rules{
		{Who: []string{"anonymous"}, May: []access.Verb{access.Pull}, Repositories: []string{"up.example/team/*"}},
		{Who: []string{"user:bob"}, May: []access.Verb{access.Pull}, Repositories: []string{"up.example/team/*"}},
		{Who: []string{"user:root", "anonymous"}, May: []access.Verb{access.Admin}},
	}
	g := newGuarded(t, rules)
	layer := g.private.Layers[0].Digest.String()
	g.want(200, "GET", "up.example/team/app/blobs/"+layer, "", as("bob")...)
	admin := listen(t, New(Options{Registry: g.registry, Gate: g.gate}).RemoteAdmin())
	told := func(user string) bool {
		answer, body := sendTo(t, "POST", admin+matchPath, `[{"digest":"`+layer+`"}]`, append([]string{"Content-Type", "application/json"}, as(user)...)...)
		if answer.StatusCode != 200 {
			t.Fatalf("%s: %d %s", user, answer.StatusCode, body)
		}
		return strings.Contains(body, layer)
	}
	for end := time.Now().Add(10 * time.Second); !told("bob"); time.Sleep(5 * time.Millisecond) { // once it is sealed
		if time.Now().After(end) {
			t.Fatal("bob is not told")
		}
	}
	if told("ann") {
		t.Error("ann is told")
	}
	for _, user := range []string{"ann", "bob"} {
		if answer, body := get(t, "GET", admin+"/api/v1/status", as(user)...); answer.StatusCode != 403 {
			t.Errorf("%s administrates by a rule for anonymous, whom nobody lets: %d %s", user, answer.StatusCode, body)
		}
	}
}

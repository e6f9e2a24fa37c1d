package registry

import (
	"strings"
	"testing"
	"time"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// leave makes an upstream say what is left of its rate limit, as Docker Hub does.
func leave(up *registrytest.Registry, remaining string) {
	up.Heal()
	up.Add(registrytest.Rule{Path: "/manifests/", Lie: registrytest.Header("RateLimit-Limit", "100;w=21600")},
		registrytest.Rule{Path: "/manifests/", Lie: registrytest.Header("RateLimit-Remaining", remaining+";w=21600")})
}

func TestTheLastOfAnAllowanceIsForWhatIsNotCached(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	old := up.AddImage("team/app", "v1", []byte("old"))
	leave(up, "10")
	c := newCache(t, up, nil)
	c.get(ref)
	if _, err := c.Pin(t.Context(), reference(t, "registry.test/team/app:v2"), nil, nil); err == nil {
		t.Fatal("pinned what is not there")
	}
	up.AddImage("team/app", "v2", []byte("pinned"))
	c.clock.advance(absentFor)
	pin, err := c.Pin(t.Context(), reference(t, "registry.test/team/app:v2"), []string{"linux/amd64"}, nil)
	noErr(t, err)
	moved := up.AddImage("team/app", "v1", []byte("new"))
	up.AddImage("team/app", "v2", []byte("moved"))
	c.clock.advance(time.Minute)
	up.ForgetRequests()

	a := c.expect(ref, old.Digest, OutcomeStale)
	if !strings.Contains(a.Detail, "allowance_reserve") {
		t.Errorf("stale, because %q", a.Detail)
	}
	_, err = c.Update(t.Context(), reference(t, "registry.test/team/app:v2"), nil, nil)
	if e := wantCode(t, err, CodeTooMany); e.RetryAfter == 0 {
		t.Error("it does not say for how long")
	}
	pins, err := c.Pins(t.Context(), true)
	noErr(t, err)
	if len(pins) != 1 || pins[0].Digest != pin.Digest || pins[0].Drift != DriftMoved {
		t.Errorf("the pins are %+v", pins)
	}
	if n := up.Count("GET", "/manifests/"); n != 0 {
		t.Errorf("%d requests that count, for what nobody lacks", n)
	}
	c.expect("registry.test/team/app@"+moved.Digest.String(), moved.Digest, OutcomeMiss)
	u := c.routes.byName["registry.test"]
	if s := u.status().Allowance; s == nil || s.Limit != 100 || s.Remaining != 10 || !s.Kept {
		t.Errorf("the status is %+v", s)
	}
	leave(up, "11")
	c.clock.advance(time.Minute)
	c.expect(ref, moved.Digest, OutcomeMiss)
}

func TestAnAllowanceIsScarceForItsWindow(t *testing.T) {
	at := time.Unix(1000, 0)
	for _, c := range []struct {
		reserve   AllowanceReserve
		remaining int64
		later     time.Duration
		want      bool
	}{
		{AllowanceReserve{}, 11, 0, false}, {AllowanceReserve{}, 10, 0, true}, {AllowanceReserve{}, 0, 0, true},
		{AllowanceReserve{}, 0, time.Hour, false}, {AllowanceReserve{}, 0, time.Hour - 1, true},
		{AllowanceReserve{Set: true}, 0, 0, false}, {AllowanceReserve{Set: true, Requests: 50}, 50, 0, true},
		{AllowanceReserve{Set: true, Requests: 50}, 51, 0, false}, {AllowanceReserve{Set: true, Fraction: 0.5}, 50, 0, true},
	} {
		a := &allowance{known: true, at: at, now: Allowance{Limit: 100, Remaining: c.remaining, Window: 3600}}
		if got := a.scarce(c.reserve, at.Add(c.later)); got != c.want {
			t.Errorf("%+v: scarce is %v", c, got)
		}
	}
	if (&allowance{}).scarce(AllowanceReserve{}, at) {
		t.Error("scarce without a limit")
	}
}

func TestTheAllowanceOfACallerIsNotOurs(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{Auth: registrytest.AuthBasic})
	r.AddImage("a/b", "v1")
	r.AddUser("ann", "ann's own secret", "a/b")
	u := upstreamOf(t, r, withPassword(t, "open sesame"))
	leave(r, "3")
	_, err := u.guest(ann, nil).manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
	noErr(t, err)
	if u.scarce() || u.anonymous().scarce() || u.status().Allowance != nil {
		t.Error("what a caller may ask is taken for what we may")
	}
	_, err = u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
	noErr(t, err)
	if !u.scarce() || u.anonymous().scarce() {
		t.Error("what our credential may ask is not told from what anybody may")
	}
}

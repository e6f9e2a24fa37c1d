package registry

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// hanging is an upstream that is given little patience and hangs.
func hanging(t *testing.T, o registrytest.Options, path string) (*registrytest.Registry, *upstream) {
	t.Helper()
	r := registrytest.New(t, o)
	r.AddImage("a/b", "v1")
	u := upstreamIn(t, upstreamEnv{patience: 100 * time.Millisecond}, r, withPassword(t, "open sesame"))
	r.Add(registrytest.Rule{Path: path, Lie: registrytest.Hang()})
	return r, u
}

func TestAQuestionThatHangsIsAskedAnewWhenUpstreamAnswersAgain(t *testing.T) {
	for name, path := range map[string]string{"the registry": "^/v2/", "its token service": "^/token"} {
		t.Run(name, func(t *testing.T) {
			r, u := hanging(t, registrytest.Options{Auth: registrytest.AuthBearer}, path)
			done := make(chan error, 1)
			go func() {
				_, err := u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
				done <- err
			}()
			r.Wait(t, "", path, 5) // the question, and probes that hang too
			r.Stubborn()
			if err := <-done; err != nil { // in half a minute it would have timed out
				t.Error(err)
			}
		})
	}
}

func TestWhoAsksAnUpstreamThatHangsIsToldSoAtOnce(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("layer"))
	c := newCache(t, up, func(c *cache) { c.stale = 100 * time.Millisecond })
	c.get(ref)
	up.Add(registrytest.Rule{Lie: registrytest.Hang()})
	first, leave := context.WithCancel(t.Context())
	defer leave()
	go func() { _, _, _ = c.Manifest(first, reference(t, "registry.test/team/app:v2")) }()
	u := c.routes.byName["registry.test"]
	eventually(t, func() bool { return u.pulse.hung() != nil })
	e := c.refused("registry.test/team/app:v3", CodeTimeout)
	if e.RetryAfter == 0 || up.Count("", "/manifests/v3") != 0 {
		t.Errorf("asked %d times; %v", up.Count("", "/manifests/v3"), e)
	}
	if _, _, err := c.Blob(t.Context(), reference(t, ref).Repository, registrytestDigest); !isTimeout(err) {
		t.Errorf("a blob: %v", err)
	}
	c.clock.advance(time.Minute)
	c.expect(ref, image.Digest, OutcomeStale)
	if n := up.Count("HEAD", "/manifests/v1"); n != 0 {
		t.Errorf("who has an answer asked an upstream that hangs %d times", n)
	}
	if s := u.status(); s.State != StateBackingOff {
		t.Errorf("the status is %+v", s)
	}
	up.AddImage("team/app", "v3", []byte("new"))
	up.Stubborn()
	eventually(t, func() bool {
		_, _, err := c.Manifest(t.Context(), reference(t, "registry.test/team/app:v3"))
		return err == nil
	})
}

const registrytestDigest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func isTimeout(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == CodeTimeout
}

func TestAnUpstreamThatIsMerelySlowIsAskedOnce(t *testing.T) {
	r, u := hanging(t, registrytest.Options{}, "^/none")
	r.Add(registrytest.Rule{Method: "GET", Path: "/manifests/", Lie: registrytest.Hang()})
	done := make(chan error, 1)
	go func() {
		_, err := u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
		done <- err
	}()
	r.Wait(t, "HEAD", "/manifests/", 1) // a probe, which is answered
	eventually(t, func() bool {
		u.pulse.mu.Lock()
		defer u.pulse.mu.Unlock()
		return !u.pulse.probing
	})
	r.Release()
	noErr(t, <-done)
	if n := r.Count("GET", "/manifests/"); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestASingleFailureMakesOnlyItsOwnTagStale(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	one := up.AddImage("team/app", "v1", []byte("one"))
	two := up.AddImage("team/app", "v2", []byte("two"))
	c := newCache(t, up, nil)
	c.get(ref)
	c.get("registry.test/team/app:v2")
	c.clock.advance(time.Minute)
	up.Add(registrytest.Rule{Method: "HEAD", Path: "/v1$", Times: 1, Lie: registrytest.Answer(500, "")})
	c.expect(ref, one.Digest, OutcomeHit) // asked once more
	c.clock.advance(time.Minute)
	up.Add(registrytest.Rule{Method: "HEAD", Path: "/v1$", Lie: registrytest.Answer(503, "")})
	c.expect(ref, one.Digest, OutcomeStale)
	c.expect("registry.test/team/app:v2", two.Digest, OutcomeHit)
}

func TestFailuresThatMayBeSingleBeginARestWhenTheyAreNot(t *testing.T) {
	c := &handClock{time.Unix(1000, 0)}
	o := &outage{now: c.now, random: func() float64 { return 0.5 }}
	why := statusError(subjectHead, 500, false, "")
	resting := func() bool { _, _, r := o.resting(); return r }
	for range 5 { // one now and then
		o.failed(why)
		o.failed(why)
		c.at = c.at.Add(singlesWithin)
	}
	o.failed(why)
	o.over()
	o.failed(why)
	o.failed(why)
	if resting() {
		t.Fatal("rests after failures that had successes, or ten seconds, between them")
	}
	o.failed(why)
	if !resting() {
		t.Fatal("does not rest after three in a row")
	}
	c.at = o.until
	o.failed(why)
	if !resting() {
		t.Fatal("after a rest, the first failure begins no other")
	}
	o.over()
	asked := *why
	asked.RetryAfter = time.Second
	o.failed(&asked)
	if !resting() {
		t.Fatal("does not rest though upstream asked for it")
	}
}

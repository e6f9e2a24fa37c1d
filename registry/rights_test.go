package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// Callers: ann may see team/app, bob something else, mallory nothing at all.
var (
	ann     = login("ann", "ann's own secret")
	bob     = login("bob", "bob's own secret")
	mallory = login("mallory", "a guess")
	nobodys = Caller{}
)

func login(username, password string) Caller {
	return NewCaller(basic(authn.AuthConfig{Username: username, Password: password}))
}

// parted is a cache in front of an upstream that wants a credential, with an
// image in team/app.
type parted struct {
	*cache
	up    *registrytest.Registry
	image registrytest.Image
	layer []byte
}

func newParted(t *testing.T, auth registrytest.Auth, operator bool) *parted {
	t.Helper()
	up := registrytest.New(t, registrytest.Options{Auth: auth})
	up.AddUser("ann", "ann's own secret", "team/app")
	up.AddUser("bob", "bob's own secret", "team/other")
	p := &parted{up: up, layer: registrytest.Bytes(7, 200_000)}
	p.image = up.AddImage("team/app", "v1", p.layer)
	up.AddImage("team/other", "v1", []byte("other"))
	p.cache = newCache(t, up, func(c *cache) {
		c.options.Access = AccessProven
		if operator {
			c.options.Username, c.options.PasswordFile = "alice", filepath.Join(t.TempDir(), "password")
			if err := os.WriteFile(c.options.PasswordFile, []byte("open sesame"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	})
	return p
}

// ways are all ways to ask for something of the image.
func (p *parted) ways() map[string]func(context.Context) error {
	in, layer := Repository{Registry: "registry.test", Path: "team/app"}, p.image.Layers[0].Digest
	manifest := func(s string, want digest.Digest) func(context.Context) error {
		return func(ctx context.Context) error {
			m, _, err := p.Manifest(ctx, reference(p.t, s))
			if err == nil && m.Descriptor.Digest != want {
				err = fmt.Errorf("got %s", m.Descriptor.Digest)
			}
			return err
		}
	}
	return map[string]func(context.Context) error{
		"tag":    manifest("registry.test/team/app:v1", p.image.Digest),
		"digest": manifest("registry.test/team/app@"+p.image.Digest.String(), p.image.Digest),
		"blob":   func(ctx context.Context) error { return p.read(ctx, in, layer, 0, len(p.layer)) },
		"range":  func(ctx context.Context) error { return p.read(ctx, in, layer, 100_000, 10) },
		"config": func(ctx context.Context) error { return p.read(ctx, in, p.image.Config.Digest, 0, 1) },
		"size": func(ctx context.Context) error {
			size, _, err := p.BlobInfo(ctx, in, layer)
			if err == nil && size != int64(len(p.layer)) {
				err = fmt.Errorf("got %d", size)
			}
			return err
		},
		"tags": func(ctx context.Context) error {
			tags, _, err := p.Tags(ctx, in)
			if err == nil && fmt.Sprint(tags) != "[v1]" {
				err = fmt.Errorf("got %v", tags)
			}
			return err
		},
	}
}

// referrersOf is a way too, but what upstream said is not kept through a restart.
func (p *parted) referrersOf(ctx context.Context) error {
	_, _, err := p.Referrers(ctx, Repository{Registry: "registry.test", Path: "team/app"}, p.image.Digest, ReferrersQuery{})
	return err
}

// read reads a part of a blob.
func (p *parted) read(ctx context.Context, in Repository, d digest.Digest, from, n int) error {
	b, _, err := p.Blob(ctx, in, d)
	if err != nil {
		return err
	}
	defer b.Close()
	if _, err := b.Seek(int64(from), io.SeekStart); err != nil {
		return err
	}
	got := make([]byte, n)
	if _, err := io.ReadFull(b, got); err != nil {
		return err
	}
	if d == p.image.Layers[0].Digest && !bytes.Equal(got, p.layer[from:from+n]) {
		return errors.New("wrong bytes")
	}
	return nil
}

// served checks that a caller gets everything.
func (p *parted) served(when string, who Caller) {
	p.t.Helper()
	for way, ask := range p.ways() {
		if err := ask(WithCaller(p.t.Context(), who)); err != nil {
			p.t.Errorf("%s, %s: %v", when, way, err)
		}
	}
}

// shut checks that callers without a right get nothing, and learn nothing.
func (p *parted) shut(when string, want ...Code) {
	p.t.Helper()
	for name, who := range map[string]Caller{"bob": bob, "mallory": mallory, "nobody": nobodys} {
		ways := p.ways()
		ways["referrers"] = p.referrersOf
		for way, ask := range ways {
			err := ask(WithCaller(p.t.Context(), who))
			var e *Error
			if !errors.As(err, &e) || !contains(want, e.Code) {
				p.t.Errorf("%s, %s asks by %s: %v, want %v", when, name, way, err, want)
			}
		}
		p.sameForAbsent(when, name, who)
	}
}

// sameForAbsent checks that what is not there is refused in the same words.
func (p *parted) sameForAbsent(when, name string, who Caller) {
	p.t.Helper()
	ctx := WithCaller(p.t.Context(), who)
	ask := func(s string) error {
		_, _, err := p.Manifest(ctx, reference(p.t, "registry.test/team/app"+s))
		return err
	}
	absent := digest.FromString("absent")
	pairs := map[string][2]error{
		"tag":    {ask(":v1"), ask(":v0")},
		"digest": {ask("@" + p.image.Digest.String()), ask("@" + absent.String())},
	}
	in := Repository{Registry: "registry.test", Path: "team/app"}
	_, _, here := p.BlobInfo(ctx, in, p.image.Layers[0].Digest)
	_, _, gone := p.BlobInfo(ctx, in, absent)
	pairs["blob"] = [2]error{here, gone}
	for what, pair := range pairs {
		if a, b := visible(pair[0]), visible(pair[1]); a != b {
			p.t.Errorf("%s, %s: %s that is there answers %s, one that is not %s", when, name, what, a, b)
		}
	}
}

// visible is what a caller sees of an error, but for the name of what it asked for.
func visible(err error) string {
	var e *Error
	if !errors.As(err, &e) {
		return fmt.Sprint(err)
	}
	return fmt.Sprintf("%s %q %s", e.Code, e.Message, e.SignIn)
}

func contains(codes []Code, c Code) bool {
	for _, code := range codes {
		if code == c {
			return true
		}
	}
	return false
}

var (
	refusals = []Code{CodeUnauthorized, CodeDenied}
	outages  = []Code{CodeUnavailable, CodeTimeout}
)

func TestRights(t *testing.T) {
	for _, auth := range []registrytest.Auth{registrytest.AuthBasic, registrytest.AuthBearer} {
		for _, operator := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, operator has a credential: %v", auth, operator), func(t *testing.T) {
				matrix(newParted(t, auth, operator), operator)
			})
		}
	}
}

func matrix(p *parted, pinned bool) {
	p.shut("cold", refusals...)
	if pinned {
		p.pin(ref)
		p.shut("fetched by the operator", refusals...)
	}
	p.served("cold", ann)
	p.settled(p.image.Digest, p.image.Config.Digest, p.image.Layers[0].Digest)
	p.served("warm", ann)
	if err := p.referrersOf(WithCaller(p.t.Context(), ann)); err != nil {
		p.t.Error("referrers:", err)
	}
	p.shut("warm", refusals...)
	p.clock.advance(2 * time.Minute)
	p.served("stale", ann)
	p.shut("stale", refusals...)
	p.restart()
	p.shut("after a restart", refusals...)
	p.served("after a restart", ann)
	if !pinned {
		p.removed()
	}
	p.up.Stop()
	p.served("upstream is dead", ann)
	p.shut("upstream is dead", outages...)
	p.clock.advance(time.Hour)
	p.served("upstream is dead for an hour", ann)
	p.restart()
	p.served("upstream is dead, after a restart", ann)
	p.shut("upstream is dead, after a restart", outages...)
	p.clock.advance(24 * time.Hour)
	if err := p.ways()["tag"](WithCaller(p.t.Context(), ann)); err == nil {
		p.t.Error("a right outlives its grace")
	}
}

func (p *parted) removed() {
	p.t.Helper()
	if _, err := p.Remove(p.t.Context(), reference(p.t, ref)); err != nil {
		p.t.Fatal(err)
	}
	p.shut("removed", refusals...)
	p.served("returned", ann)
	p.settled(p.image.Digest, p.image.Config.Digest, p.image.Layers[0].Digest)
	p.shut("returned", refusals...)
}

func TestNobodyJoinsAFlightWithoutARight(t *testing.T) {
	p := newParted(t, registrytest.AuthBearer, false)
	p.up.Add(registrytest.Rule{Method: "GET", Path: "/blobs/", Lie: registrytest.Stall(1000)})
	in, layer := Repository{Registry: "registry.test", Path: "team/app"}, p.image.Layers[0].Digest
	done := make(chan error, 1)
	go func() { done <- p.read(WithCaller(context.Background(), ann), in, layer, 0, len(p.layer)) }()
	p.up.Wait(t, "GET", "/blobs/", 1)
	p.shut("in flight", refusals...)
	p.up.Heal()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWhatIsPublicIsServedWhateverTheCallerShows(t *testing.T) {
	for _, auth := range []registrytest.Auth{registrytest.AuthBasic, registrytest.AuthBearer} {
		p := newParted(t, auth, true)
		p.up.Public("team/app")
		for _, who := range []Caller{mallory, nobodys, bob, ann} {
			p.served("public", who)
		}
		for _, asked := range p.up.Requests("", "") {
			if asked.Auth == "basic" {
				t.Errorf("%s: a credential was shown for what is public: %s %s", auth, asked.Method, asked.Path)
			}
		}
		p.settled(p.image.Digest, p.image.Config.Digest, p.image.Layers[0].Digest)
		p.up.Stop()
		for way, ask := range p.ways() {
			if err := ask(WithCaller(t.Context(), mallory)); err != nil {
				t.Errorf("upstream is dead, %s: %v", way, err)
			}
		}
	}
}

func TestARightThatUpstreamTakesAwayIsGone(t *testing.T) {
	p := newParted(t, registrytest.AuthBearer, false)
	for way, ask := range p.ways() {
		p.served("at first", ann)
		p.settled(p.image.Digest, p.image.Config.Digest, p.image.Layers[0].Digest)
		p.up.RemoveUser("ann")
		p.clock.advance(2 * defaultGrantTTL)
		if err := ask(WithCaller(t.Context(), ann)); err == nil {
			t.Errorf("%s: served", way)
		}
		p.up.Stop()
		if err := ask(WithCaller(t.Context(), ann)); err == nil {
			t.Errorf("%s: the grace is for rights that upstream did not take away", way)
		}
		p.up.Start(t)
		p.up.AddUser("ann", "ann's own secret", "team/app")
		p.clock.advance(time.Minute)
	}
	p.served("given back", ann)
}

func TestAStaleAnswerIsNoneWhenItIsTheRightThatWent(t *testing.T) {
	p := newParted(t, registrytest.AuthBasic, false)
	p.served("at first", ann)
	p.up.RemoveUser("ann")
	p.clock.advance(2 * time.Minute) // the tag is old, the grant is not
	wantCode(t, p.ways()["tag"](WithCaller(t.Context(), ann)), CodeUnauthorized)
	wantCode(t, p.ways()["blob"](WithCaller(t.Context(), ann)), CodeUnauthorized)
}

func TestATagThatTurnsPrivateFollowsUpstreamForWhoMaySeeIt(t *testing.T) {
	p := newParted(t, registrytest.AuthBasic, false)
	p.up.Public("team/app")
	p.served("public", nobodys)
	p.up.Unpublish("team/app")
	moved := p.up.AddImage("team/app", "v1", []byte("newer"))
	p.clock.advance(time.Hour)
	m, _, err := p.Manifest(WithCaller(t.Context(), ann), reference(t, ref))
	if err != nil || m.Descriptor.Digest != moved.Digest {
		t.Errorf("ann gets %v, %v", m, err)
	}
	if m, _, err := p.Manifest(t.Context(), reference(t, ref)); err == nil && m.Descriptor.Digest == moved.Digest {
		t.Error("nobody gets what was never public")
	}
}

func TestAPinIsServedToWhoHasARightThoughUpstreamDeletedItsTag(t *testing.T) {
	p := newParted(t, registrytest.AuthBearer, true)
	p.pin(ref)
	p.up.Untag("team/app", "v1")
	p.up.AddImage("team/app", "v2", []byte("v2"))
	if err := p.ways()["tag"](WithCaller(t.Context(), ann)); err != nil {
		t.Error(err)
	}
	if err := p.ways()["tag"](WithCaller(t.Context(), bob)); err == nil {
		t.Error("bob gets it")
	}
}

func TestAGuessIsShownToUpstreamOnce(t *testing.T) {
	for _, auth := range []registrytest.Auth{registrytest.AuthBasic, registrytest.AuthBearer} {
		p := newParted(t, auth, false)
		for range 20 {
			for _, ask := range p.ways() {
				if err := ask(WithCaller(t.Context(), mallory)); err == nil {
					t.Fatal("served")
				}
			}
		}
		shown := 0
		for _, asked := range p.up.Requests("", "") {
			if asked.Auth == "basic" {
				shown++
			}
		}
		if shown != 1 {
			t.Errorf("%s: shown %d times", auth, shown)
		}
		if n, most := p.rights.guests.Len(), 1; n > most {
			t.Errorf("%d guests", n)
		}
	}
}

func TestAnOpenedUpstreamNeverSeesACallersCredential(t *testing.T) {
	p := newParted(t, registrytest.AuthBasic, true)
	p.stop()
	p.options.Access = AccessOpen
	p.start()
	p.served("open", mallory)
	for _, asked := range p.up.Requests("", "") {
		if asked.Auth == "basic" && asked.Status() != 200 {
			t.Errorf("%s %s: %d", asked.Method, asked.Path, asked.Status())
		}
	}
	if p.rights.guests.Len() != 0 {
		t.Error("a caller's credential was taken up")
	}
}

func TestACallersTokenIsShownToUpstreamItself(t *testing.T) {
	p := newParted(t, registrytest.AuthBearer, false)
	p.served("signed in", ann)
	token := p.up.Token("team/app")
	p.served("by token", NewCaller("Bearer "+token))
	p.up.ExpireTokens()
	p.clock.advance(2 * defaultGrantTTL)
	wantCode(t, p.ways()["tag"](WithCaller(t.Context(), NewCaller("Bearer "+token))), CodeUnauthorized)
}

func TestAnUpstreamWithoutHeadProvesARightByGet(t *testing.T) {
	p := newParted(t, registrytest.AuthBasic, false)
	p.up.Add(registrytest.Rule{Path: "/manifests/", Lie: registrytest.NoHead()})
	p.served("no HEAD", ann)
	p.shut("no HEAD", refusals...)
}

func TestAHungUpstreamKeepsNobodyWaitingInItsGrace(t *testing.T) {
	p := newParted(t, registrytest.AuthBasic, false)
	p.stop()
	p.stale = 50 * time.Millisecond
	p.start()
	p.served("at first", ann)
	p.settled(p.image.Digest, p.image.Config.Digest, p.image.Layers[0].Digest)
	p.clock.advance(time.Hour)
	p.up.Add(registrytest.Rule{Path: ".*", Lie: registrytest.Hang()})
	p.up.ForgetRequests()
	if err := p.ways()["tag"](WithCaller(t.Context(), ann)); err != nil {
		t.Error(err)
	}
	p.served("hung", ann)
	if n := p.up.Count("", "/v2/"); n > 2 {
		t.Errorf("upstream, which is silent, was asked %d times", n)
	}
	p.up.Heal()
}

func TestALoginIsNotTriedAtAHungUpstreamByWhoHasAnAnswer(t *testing.T) {
	p := newParted(t, registrytest.AuthBasic, false)
	p.up.Public("team/app")
	p.stop()
	p.stale = 50 * time.Millisecond
	p.start()
	p.expect(ref, p.image.Digest, OutcomeMiss)
	p.settled(p.image.Digest)
	p.clock.advance(time.Hour)
	p.up.Add(registrytest.Rule{Path: ".*", Lie: registrytest.Hang()})
	p.up.ForgetRequests()
	_, a, err := p.Manifest(WithCaller(t.Context(), bob), reference(t, ref))
	if err != nil || a.Outcome != OutcomeStale {
		t.Errorf("%q, %v", a.Outcome, err)
	}
	if n := p.up.Count("GET", "^/v2/$"); n > 0 {
		t.Errorf("upstream, which is silent, was asked how to sign in %d times while a stale answer was here", n)
	}
	p.up.Heal()
}

// Clients ask for a manifest by digest right after they asked for its tag, which
// is before it is durable.
func TestWhatUpstreamHasJustShownIsNotAskedForAgain(t *testing.T) {
	p := newParted(t, registrytest.AuthBasic, false)
	ingest := filepath.Join(p.root, "ingest")
	if err := os.Rename(ingest, ingest+"-away"); err != nil {
		t.Fatal(err)
	}
	byDigest := "registry.test/team/app@" + p.image.Digest.String()
	ask := func(who Caller, s string) error {
		_, _, err := p.Manifest(WithCaller(t.Context(), who), reference(t, s))
		return err
	}
	if err := ask(ann, ref); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return p.unkept.waiting() > 0 })
	p.up.ForgetRequests()
	for _, s := range []string{ref, byDigest} {
		if err := ask(ann, s); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	if n := p.up.Count("", ".*"); n != 0 {
		t.Errorf("upstream was asked %d times for what it had just shown", n)
	}
	for name, who := range map[string]Caller{"bob": bob, "nobody": nobodys} {
		for _, s := range []string{ref, byDigest} {
			if err := ask(who, s); err == nil {
				t.Errorf("%s got %s", name, s)
			}
		}
	}
	if err := os.Rename(ingest+"-away", ingest); err != nil {
		t.Fatal(err)
	}
}

func TestGrantsThatAreOfNoUseAreSwept(t *testing.T) {
	p := newParted(t, registrytest.AuthBasic, false)
	g := p.rights.grants
	for i := range 100 {
		if err := g.put("caller", Repository{Registry: "registry.test", Path: fmt.Sprint("old/", i)}); err != nil {
			t.Fatal(err)
		}
	}
	p.clock.advance(48 * time.Hour)
	for i := range 40 {
		if err := g.put("caller", Repository{Registry: "registry.test", Path: fmt.Sprint("new/", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if n := p.rows(bucketGrants); n != 40 {
		t.Errorf("%d rows", n)
	}
}

// rows counts the rows of a bucket.
func (p *parted) rows(bucket []byte) (n int) {
	p.t.Helper()
	err := p.state.db.View(func(tx *bolt.Tx) error {
		n = tx.Bucket(bucket).Stats().KeyN
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

func TestALimitHoldsBackWhoeverAsks(t *testing.T) {
	p := newParted(t, registrytest.AuthBasic, false)
	p.up.Add(registrytest.Rule{Path: "/manifests/", Times: 1, Lie: registrytest.Answer(429, "60")})
	wantCode(t, p.ways()["tag"](WithCaller(t.Context(), mallory)), CodeTooMany)
	p.up.ForgetRequests()
	for way, ask := range p.ways() {
		if way == "blob" || way == "range" || way == "config" || way == "size" {
			continue // limited apart
		}
		for _, who := range []Caller{ann, bob, nobodys} {
			if e := wantCode(t, ask(WithCaller(t.Context(), who)), CodeTooMany); e.RetryAfter != time.Minute {
				t.Errorf("%s: retry after %s", way, e.RetryAfter)
			}
		}
	}
	if n := p.up.Count("", "/v2/"); n != 0 {
		t.Errorf("a limited upstream was asked %d times", n)
	}
	p.clock.advance(time.Minute)
	p.served("the limit is over", ann)
}

func TestALimitOnBlobsHoldsBackWhoeverAsks(t *testing.T) {
	p := newParted(t, registrytest.AuthBasic, false)
	p.served("at first", ann)
	p.settled(p.image.Layers[0].Digest)
	p.up.Add(registrytest.Rule{Path: "/blobs/", Lie: registrytest.Answer(429, "60")})
	absent := p.up.AddBlob("team/app", []byte("more"))
	in := Repository{Registry: "registry.test", Path: "team/app"}
	wantCode(t, p.read(WithCaller(t.Context(), ann), in, absent, 0, 1), CodeTooMany)
	p.up.ForgetRequests()
	for name, who := range map[string]Caller{"bob": bob, "nobody": nobodys} {
		for _, way := range []string{"blob", "size"} {
			if err := p.ways()[way](WithCaller(t.Context(), who)); err == nil {
				t.Errorf("%s, %s: served", name, way)
			}
		}
	}
	if n := p.up.Count("", "/blobs/"); n != 0 {
		t.Errorf("a limited upstream was asked %d times", n)
	}
	p.served("what is here", ann)
}

func TestAGrantOfTheFutureIsNone(t *testing.T) {
	p := newParted(t, registrytest.AuthBasic, false)
	p.served("at first", ann)
	p.settled(p.image.Digest, p.image.Config.Digest, p.image.Layers[0].Digest)
	p.clock.advance(-48 * time.Hour)
	p.up.Stop()
	for way, ask := range p.ways() {
		if err := ask(WithCaller(t.Context(), ann)); err == nil {
			t.Errorf("%s: served by a grant whose age nobody knows", way)
		}
	}
	p.up.Start(t)
	p.clock.advance(time.Minute)
	p.served("shown again", ann)
}

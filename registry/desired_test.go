package registry

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// lose takes blobs out of the store between two runs.
func (c *cache) lose(digests ...digest.Digest) {
	c.t.Helper()
	c.stop()
	for _, d := range digests {
		if err := os.Remove(filepath.Join(c.root, "blobs", d.Algorithm().String(), d.Encoded())); err != nil {
			c.t.Fatal(err)
		}
	}
	c.start()
}

// pinNow is what Pins says of a reference now, without asking upstream.
func (c *cache) pinNow(ref string) Pin {
	c.t.Helper()
	pins, err := c.PinsOf(context.Background(), []Reference{reference(c.t, ref)}, false)
	if err != nil {
		c.t.Fatal(err)
	}
	return pins[0]
}

func TestIncompletePinIsTriedAgainAtOnceAndThenSeldomer(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("one"))
	layer := "/blobs/" + image.Layers[0].Digest.String()
	up.Add(registrytest.Rule{Path: layer, Lie: registrytest.Answer(404, "")})
	c := newCache(t, up, nil)
	if _, err := c.Pin(context.Background(), reference(t, ref), nil, nil); err == nil {
		t.Fatal("it was fetched")
	}
	up.Wait(t, "GET", layer, 2) // the second without a tick, and without the clock moving
	eventually(t, func() bool { p := c.pinNow(ref); return p.State == PinUnreachable && !p.NextTry.IsZero() })
	p := c.pinNow(ref)
	if p.Error == "" || p.Since.IsZero() || !p.NextTry.After(c.clock.now()) {
		t.Errorf("%+v", p)
	}
	up.Heal()
	c.completePins() // not due
	if p := c.pinNow(ref); p.Complete {
		t.Error("it was tried again though it is to be left alone")
	}
	c.clock.advance(time.Minute)
	nudge(c.lacks)
	eventually(t, func() bool { return c.pinNow(ref).State == PinComplete })
	if p := c.pinNow(ref); p.Error != "" || !p.Since.IsZero() {
		t.Errorf("it is complete and still says %+v", p)
	}
}

func TestPausesGrowToALimit(t *testing.T) {
	d := newDesired()
	for _, spread := range []float64{0, 0.999} {
		d.random = func() float64 { return spread }
		last := time.Duration(0)
		for n := 1; n < 100; n++ {
			pause := d.pause(n, errors.New("x"))
			if pause < last || pause > lastTry*6/5 {
				t.Fatalf("%s after %d failures, %s before", pause, n, last)
			}
			last = pause
		}
		if last < lastTry*4/5 {
			t.Errorf("after 100 failures %s", last)
		}
	}
}

func TestARegistryThatHangsHoldsUpNoOther(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	slow := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("one"))
	hung := slow.AddImage("team/app", "v1", []byte("two"))
	c := newCache(t, up, func(c *cache) {
		c.more = []UpstreamOptions{{Name: "slow.test", URL: slow.URL()}}
	})
	c.pin(ref)
	c.pin("slow.test/team/app:v1")
	slow.Add(registrytest.Rule{Path: "/blobs/", Lie: registrytest.Hang()})
	c.lose(image.Layers[0].Digest, hung.Layers[0].Digest)
	slow.Wait(t, "GET", hung.Layers[0].Digest.String(), 2)
	eventually(t, func() bool { return c.pinNow(ref).Complete })
	slow.Heal()
	eventually(t, func() bool { return c.pinNow("slow.test/team/app:v1").Complete })
}

func TestUpdateMovesAPinAndRollbackGoesBackAndForth(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	first := up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, nil)
	c.pin(ref)
	second := up.AddImage("team/app", "v1", []byte("new"))
	c.clock.advance(time.Hour)
	p, err := c.Update(context.Background(), reference(t, ref), nil, nil)
	if err != nil || p.Digest != second.Digest.String() || p.MovedFrom != first.Digest.String() || !p.Complete {
		t.Fatalf("%+v, %v", p, err)
	}
	if h := p.History; len(h) != 1 || h[0].Digest != first.Digest.String() || !h[0].Complete || h[0].Until.Sub(h[0].From) != time.Hour {
		t.Errorf("history %+v", h)
	}
	up.Stop()
	c.restart() // histories are kept
	for _, want := range []digest.Digest{first.Digest, second.Digest} {
		if p, err := c.Rollback(context.Background(), reference(t, ref), "", false, nil); err != nil || p.Digest != want.String() {
			t.Fatalf("%+v, %v", p, err)
		}
		c.expect(ref, want, OutcomeHit)
	}
	_, err = c.Rollback(context.Background(), reference(t, ref), digest.FromString("never"), false, nil)
	wantCode(t, err, CodeManifestUnknown)
	_, err = c.Rollback(context.Background(), reference(t, ref), second.Digest, false, nil)
	wantCode(t, err, CodePinned)
}

func TestUpdateNeedsUpstreamsWord(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, nil)
	c.pin(ref)
	up.Stop()
	_, err := c.Update(context.Background(), reference(t, ref), nil, nil)
	wantCode(t, err, CodeUnavailable)
	c.expect(ref, image.Digest, OutcomeHit)
	if p := c.pinNow(ref); len(p.History) != 0 {
		t.Errorf("%+v", p.History)
	}
}

func TestRollbackToWhatIsNotWholeIsRefusedUnlessFetched(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	first := up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, nil)
	c.pin(ref)
	second := up.AddImage("team/app", "v1", []byte("new"))
	if _, err := c.Update(context.Background(), reference(t, ref), nil, nil); err != nil {
		t.Fatal(err)
	}
	c.lose(first.Layers[0].Digest)
	_, err := c.Rollback(context.Background(), reference(t, ref), "", false, nil)
	if e := wantCode(t, err, CodeIncomplete); !strings.Contains(e.Message, first.Layers[0].Digest.String()) {
		t.Errorf("it does not say what lacks: %s", e.Message)
	}
	c.expect(ref, second.Digest, OutcomeHit)
	if p, err := c.Rollback(context.Background(), reference(t, ref), first.Digest, true, nil); err != nil || !p.Complete {
		t.Errorf("%+v, %v", p, err)
	}
	c.expect(ref, first.Digest, OutcomeHit)
}

func TestHistoryIsBoundedAndOutlivesUnpinning(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	c := newCache(t, up, nil)
	var last registrytest.Image
	for i := range historyMost + 5 {
		last = up.AddImage("team/app", "v1", []byte{byte(i)})
		c.pin(ref + "@" + last.Digest.String())
	}
	if h := c.pinNow(ref).History; len(h) != historyMost || h[0].Digest == last.Digest.String() {
		t.Errorf("%d in the history, newest %s", len(h), h[0].Digest)
	}
	if err := c.Unpin(context.Background(), reference(t, ref)); err != nil {
		t.Fatal(err)
	}
	if p, err := c.Rollback(context.Background(), reference(t, ref), "", false, nil); err != nil || p.Digest != last.Digest.String() {
		t.Errorf("%+v, %v", p, err)
	}
	if err := c.Unpin(context.Background(), reference(t, ref)); err != nil {
		t.Fatal(err)
	}
	c.clock.advance(historyKept + time.Hour)
	if err := c.forgetHistory(); err != nil {
		t.Fatal(err)
	}
	if past, err := c.history(ref); err != nil || len(past) != 0 {
		t.Errorf("%v, %v", past, err)
	}
}

func TestAPinThatIsBrokenOffLeavesNoHistory(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	first := up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, nil)
	c.pin(ref)
	second := up.AddImage("team/app", "v1", []byte("new"))
	up.Add(registrytest.Rule{Path: second.Layers[0].Digest.String(), Lie: registrytest.Hang()})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := c.Update(ctx, reference(t, ref), nil, nil)
		done <- err
	}()
	up.Wait(t, "GET", second.Layers[0].Digest.String(), 1)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if p := c.pinNow(ref); p.Digest != first.Digest.String() || len(p.History) != 0 {
		t.Errorf("%+v", p)
	}
}

func TestDriftTellsWhatChanged(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	kept, dropped, added := []byte("kept"), []byte("dropped"), []byte("added, and larger")
	up.AddImage("team/app", "v1", kept, dropped)
	c := newCache(t, up, nil)
	c.pin(ref)
	moved := up.AddImage("team/app", "v1", kept, added)
	p := c.onlyPin()
	if p.State != PinDrifted || p.Change == nil || p.Change.Reason != "" || len(p.Change.Platforms) != 1 {
		t.Fatalf("%+v", p)
	}
	got := p.Change.Platforms[0]
	if got.Kept != 1 || len(got.Added) != 1 || got.Added[0].Digest != digest.FromBytes(added).String() ||
		len(got.Dropped) != 1 || got.Dropped[0].Digest != digest.FromBytes(dropped).String() ||
		got.SizeTo-got.SizeFrom != int64(len(added)-len(dropped)) {
		t.Errorf("%+v", got)
	}
	if up.Count("GET", "/blobs/"+digest.FromBytes(added).String()) != 0 {
		t.Error("a layer was fetched to tell what changed")
	}
	if _, err := c.store.Stat(moved.Digest); err == nil {
		t.Error("the other manifest was kept")
	}
	c.onlyPin()
	for _, path := range []string{"/manifests/" + moved.Digest.String(), "/blobs/" + moved.Config.Digest.String()} {
		if n := up.Count("GET", path); n != 1 {
			t.Errorf("to tell what changed, %s was fetched %d times", path, n)
		}
	}
}

func TestChangedConfigNamesWhatDiffers(t *testing.T) {
	from := specs.Image{Config: specs.ImageConfig{Env: []string{"A=1", "B=2"}, Cmd: []string{"x"}, User: "root", Labels: map[string]string{"v": "1"}}}
	to := specs.Image{Config: specs.ImageConfig{Env: []string{"A=1", "B=3", "C="}, Entrypoint: []string{"/e", "-x"}, Labels: map[string]string{"v": "2"}}}
	var got []string
	for _, v := range changedConfig(from, to) {
		side := func(s *string) string {
			if s == nil {
				return "-"
			}
			return *s
		}
		got = append(got, strings.TrimSpace(v.Field+" "+v.Name)+": "+side(v.From)+" > "+side(v.To))
	}
	want := []string{`cmd: ["x"] > -`, `entrypoint: - > ["/e","-x"]`, "env B: 2 > 3", "env C: - > ", "labels v: 1 > 2", "user: root > -"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestDriftIsLookedForInTheBackgroundByHeadAlone(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, nil)
	c.pin(ref)
	c.look() // what is due after pinning is looked at now, and not beside what follows
	moved := up.AddImage("team/app", "v1", []byte("new"))
	gets, heads := up.Count("GET", "/manifests/"+moved.Digest.String()), up.Count("HEAD", "/manifests/v1")
	c.clock.advance(2 * lookEvery)
	c.look() // or the watch, if it was woken late
	eventually(t, func() bool { return c.pinNow(ref).State == PinDrifted })
	p := c.pinNow(ref)
	if p.State != PinDrifted || p.UpstreamDigest != moved.Digest.String() || p.DriftCheckedAt.IsZero() {
		t.Errorf("%+v", p)
	}
	c.look() // not due
	if h := up.Count("HEAD", "/manifests/v1") - heads; h != 1 {
		t.Errorf("%d HEADs", h)
	}
	if up.Count("GET", "/manifests/"+moved.Digest.String()) != gets {
		t.Error("the other manifest was fetched")
	}
	if s := c.Status(context.Background()); s.PinsDrifted != 1 {
		t.Errorf("%d drifted", s.PinsDrifted)
	}
}

func TestDrillTellsWhatCouldNotStart(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	whole := up.AddImage("team/app", "v1", []byte("one"))
	amd := up.AddImageFor("team/multi", "", specs.Platform{OS: "linux", Architecture: "amd64"}, []byte("amd64"))
	arm := up.AddImageFor("team/multi", "", specs.Platform{OS: "linux", Architecture: "arm64"}, []byte("arm64"))
	up.AddIndex("team/multi", "v1", amd, arm)
	c := newCache(t, up, nil)
	c.pin(ref)
	c.pin("registry.test/team/multi:v1", PlatformAll)
	if d, err := c.Drill(context.Background(), DrillOptions{}); err != nil || d.Failing != 0 || len(d.References) != 2 {
		t.Fatalf("%+v, %v", d, err)
	}
	up.Stop()
	c.lose(arm.Digest, amd.Layers[0].Digest)
	c.manifests.Purge()
	d, err := c.Drill(context.Background(), DrillOptions{References: []Reference{
		reference(t, ref), reference(t, "registry.test/team/multi:v1"), reference(t, "registry.test/team/unknown:v1")}})
	if err != nil || d.Failing != 2 || !d.References[0].OK {
		t.Fatalf("%+v, %v", d, err)
	}
	var lacks []string
	for _, l := range append(d.References[1].Lacks, d.References[2].Lacks...) {
		lacks = append(lacks, l.Kind+" "+l.Platform)
	}
	if !slices.Equal(lacks, []string{"layer linux/amd64", "manifest linux/arm64", "manifest "}) {
		t.Errorf("%q", lacks)
	}
	// Rot is found by reading alone.
	path := filepath.Join(c.root, "blobs", "sha256", whole.Layers[0].Digest.Encoded())
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("rot"), 0o600); err != nil {
		t.Fatal(err)
	}
	only := []Reference{reference(t, ref)}
	if d, _ := c.Drill(context.Background(), DrillOptions{References: only, ForReal: true}); d.Failing != 1 || d.Bytes == 0 {
		t.Errorf("%+v", d)
	}
}

func TestDrillOfWhatWasUsedLately(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, nil)
	c.get(ref) // its manifest alone
	eventually(t, func() bool {
		d, err := c.Drill(context.Background(), DrillOptions{Recent: time.Hour})
		return err == nil && len(d.References) == 1 && d.Failing == 1 && len(d.References[0].Lacks) == 2
	})
	if d, _ := c.Drill(context.Background(), DrillOptions{}); len(d.References) != 0 {
		t.Errorf("%+v", d)
	}
	c.refreshDrill()
	c.clock.advance(2 * drillEvery)
	c.refreshDrill()
	if s := c.Status(context.Background()); s.DrillFailing == nil || *s.DrillFailing != 1 {
		t.Errorf("%v", s.DrillFailing)
	}
}

func TestPatternsStandForExistingTags(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{PageSize: 2})
	for _, name := range []string{"team/app", "team/tool", "other/app"} {
		for _, tag := range []string{"v1", "v2", "beta"} {
			up.AddImage(name, tag, []byte("one"))
		}
	}
	image := up.AddImage("team/app", "", []byte("one"))
	up.Tag("team/app", referrersTag(image.Digest), image.Digest)
	c := newCache(t, up, nil)
	match := func(p string) string {
		t.Helper()
		refs, err := c.Match(context.Background(), p)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, r := range refs {
			names = append(names, strings.TrimPrefix(r.String(), "registry.test/"))
		}
		return strings.Join(names, " ")
	}
	if got := match("registry.test/team/app:v*"); got != "team/app:v1 team/app:v2" {
		t.Error(got)
	}
	if got := match("registry.test/team/app:*"); strings.Contains(got, "sha256-") {
		t.Error(got)
	}
	if got := match("registry.test/team/*:v1"); got != "" {
		t.Errorf("repositories that nobody named: %s", got)
	}
	c.pull("registry.test/team/app:v1")
	c.pull("registry.test/team/tool:beta")
	c.pull("registry.test/other/app:v1")
	if got := match("registry.test/team/*:v[12]"); got != "team/app:v1 team/app:v2 team/tool:v1 team/tool:v2" {
		t.Error(got)
	}
	for _, bad := range []string{"*/x:y", "registry.test/a@sha256:*", "registry.test/a:[", "registry.*/a:b"} {
		_, err := c.Match(context.Background(), bad)
		if err == nil && bad != "*/x:y" {
			t.Errorf("%s was taken", bad)
		}
	}
}

func TestAPatternIsNotMatchedByWhatIsKnownHereAlone(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	up.AddImage("team/app", "v1", []byte("one"))
	up.AddImage("team/app", "v2", []byte("two"))
	c := newCache(t, up, nil)
	c.pull(ref)
	up.Stop()
	refs, err := c.Match(context.Background(), "registry.test/team/app:v*")
	wantCode(t, err, CodeUnavailable)
	if len(refs) != 0 {
		t.Errorf("%v", refs)
	}
}

func TestADrillIsNoUse(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, nil)
	c.pin(ref)
	used := func() (all []time.Time) {
		for _, d := range []digest.Digest{image.Digest, image.Config.Digest, image.Layers[0].Digest} {
			info, err := c.store.Stat(d)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, info.Used)
		}
		return all
	}
	before := used()
	c.clock.advance(time.Hour)
	d, err := c.Drill(context.Background(), DrillOptions{ForReal: true})
	if err != nil || d.Failing != 0 || d.Blobs != 3 || d.Bytes == 0 {
		t.Errorf("%+v, %v", d, err)
	}
	if after := used(); !slices.Equal(before, after) {
		t.Errorf("used at %v, before the drill %v", after, before)
	}
}

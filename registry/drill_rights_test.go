package registry

import (
	"strings"
	"testing"
	"time"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// drilled drills one reference.
func (c *cache) drilled(ref string) DrilledReference {
	c.t.Helper()
	d, err := c.Drill(c.t.Context(), DrillOptions{References: []Reference{reference(c.t, ref)}})
	if err != nil || len(d.References) != 1 {
		c.t.Fatal(d, err)
	}
	return d.References[0]
}

// said reports whether some of the lacks is about a right and says so.
func said(lacks []Lack, words string) bool {
	for _, l := range lacks {
		if l.Kind == KindRight && strings.Contains(l.Reason, words) {
			return true
		}
	}
	return false
}

// TestADrillTellsOfARightThatEnds: a pinned private image is here, and as soon as
// nobody's right is believed any more nobody can have it.
func TestADrillTellsOfARightThatEnds(t *testing.T) {
	const ref = "registry.test/team/app:v1"
	p := newParted(t, registrytest.AuthBasic, true)
	p.pin(ref)
	if d := p.drilled(ref); d.OK || !said(d.Lacks, "no caller has shown a right") {
		t.Errorf("nobody has shown a right: %+v", d)
	}
	if err := p.ways()["tag"](WithCaller(t.Context(), ann)); err != nil {
		t.Fatal(err)
	}
	if d := p.drilled(ref); !d.OK || len(d.Expires) != 0 {
		t.Errorf("ann has: %+v", d)
	}
	p.clock.advance(defaultGrantGrace - time.Hour)
	if d := p.drilled(ref); !d.OK || !said(d.Expires, "ends in 1h0m0s") {
		t.Errorf("an hour before its end: %+v", d)
	}
	p.refreshDrill()
	if s := p.Status(t.Context()); s.DrillExpiring == nil || *s.DrillExpiring != 1 || *s.DrillFailing != 0 {
		t.Errorf("gauges %v, %v", s.DrillExpiring, s.DrillFailing)
	}
	p.clock.advance(2 * time.Hour)
	if d := p.drilled(ref); d.OK || !said(d.Lacks, "no caller has shown a right") {
		t.Errorf("after its end: %+v", d)
	}
	p.up.Stop()
	p.shut("the right has ended", CodeUnauthorized, CodeDenied, CodeUnavailable)
	if err := p.ways()["tag"](WithCaller(t.Context(), ann)); err == nil {
		t.Error("the drill says that nobody can have it, and ann can")
	}
}

// TestADrillTellsOfACredentialThatIsRefused, until it is accepted again.
func TestADrillTellsOfACredentialThatIsRefused(t *testing.T) {
	const ref = "registry.test/team/app:v1"
	p := newParted(t, registrytest.AuthBasic, true)
	p.stop()
	p.options.Access = AccessOpen
	p.start()
	p.pin(ref)
	if d := p.drilled(ref); !d.OK || len(d.Expires) != 0 {
		t.Fatalf("%+v", d)
	}
	p.up.SetPassword("another")
	p.clock.advance(time.Hour)
	p.get(ref)                                                                  // a pin asks nobody
	if _, err := p.Pull(t.Context(), reference(t, ref), nil, nil); err != nil { // nor does what is here
		t.Fatal(err)
	}
	if _, err := p.Pins(t.Context(), true); err != nil { // this does
		t.Fatal(err)
	}
	if d := p.drilled(ref); !d.OK || !said(d.Expires, "upstream refuses our credential") {
		t.Errorf("%+v", d)
	}
	p.up.SetPassword("open sesame")
	p.clock.advance(time.Hour)
	if _, err := p.Pins(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if d := p.drilled(ref); !d.OK || len(d.Expires) != 0 {
		t.Errorf("%+v", d)
	}
}

// TestADrillTellsOfWhatWasNotShownInItsRepository.
func TestADrillTellsOfWhatWasNotShownInItsRepository(t *testing.T) {
	const ref = "registry.test/team/other:v2"
	p := newParted(t, registrytest.AuthBasic, true)
	same := p.up.AddImage("team/other", "v2", p.layer)
	p.pin("registry.test/team/app:v1")
	p.up.Add(registrytest.Rule{Method: "HEAD", Path: "/team/other/blobs/", Lie: registrytest.Answer(404, "")})
	p.pin(ref)
	if err := p.asBobTag(ref); err != nil {
		t.Fatal(err)
	}
	d := p.drilled(ref)
	if d.OK || !said(d.Lacks, "has not shown it in this one") {
		t.Errorf("%+v", d)
	}
	p.up.Heal()
	p.clock.advance(3 * lookEvery)
	nudge(p.desired.wake)
	p.noted(reference(t, ref).Repository, same.Digest, same.Config.Digest, same.Layers[0].Digest)
	if d := p.drilled(ref); !d.OK {
		t.Errorf("%+v", d)
	}
}

func (p *parted) asBobTag(ref string) error {
	_, _, err := p.Manifest(WithCaller(p.t.Context(), bob), reference(p.t, ref))
	return err
}

// TestADrillTellsOfATagThatIsTooOld to be answered.
func TestADrillTellsOfATagThatIsTooOld(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, func(c *cache) { c.options.StaleMax = time.Hour })
	if _, err := c.Pull(t.Context(), reference(t, ref), nil, nil); err != nil {
		t.Fatal(err)
	}
	if d := c.drilled(ref); !d.OK {
		t.Errorf("%+v", d)
	}
	c.clock.advance(2 * time.Hour)
	if d := c.drilled(ref); d.OK || d.Lacks[0].Kind != "tag" {
		t.Errorf("%+v", d)
	}
	up.Stop()
	if _, _, err := c.Manifest(t.Context(), reference(t, ref)); err == nil {
		t.Error("it is answered")
	}
}

package registry

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// slowPin is a call that pins, and that waits for a layer until it is cancelled.
type slowPin struct {
	c      *cache
	cancel context.CancelFunc
	done   chan error
}

// slowly pins, and returns when upstream was asked for a layer, which hangs.
func (c *cache) slowly(up *registrytest.Registry, hangs digest.Digest, pin func(context.Context, Reference, []string, func(Progress)) (Pin, error)) slowPin {
	c.t.Helper()
	asked := up.Count("GET", hangs.String())
	up.Add(registrytest.Rule{Path: hangs.String(), Lie: registrytest.Hang()})
	ctx, cancel := context.WithCancel(context.Background())
	s := slowPin{c, cancel, make(chan error, 1)}
	go func() {
		_, err := pin(ctx, reference(c.t, ref), nil, nil)
		s.done <- err
	}()
	up.Wait(c.t, "GET", hangs.String(), asked+1)
	return s
}

func (s slowPin) breakOff() {
	s.c.t.Helper()
	s.cancel()
	if err := <-s.done; !errors.Is(err, context.Canceled) {
		s.c.t.Fatalf("%v, want it to say that it was cancelled", err)
	}
}

// pinnedAt is the digest that a reference is pinned at, "" for none. Rows,
// what is in memory and roots must agree.
func (c *cache) pinnedAt(ref string) digest.Digest {
	c.t.Helper()
	row, _ := c.pinned(reference(c.t, ref))
	roots, err := c.store.Roots()
	if err != nil || roots[rootOfPin+ref] != row.Digest {
		c.t.Errorf("pinned at %q, root %q, %v", row.Digest, roots[rootOfPin+ref], err)
	}
	var stored digest.Digest
	err = each(c.state, bucketPins, func(key string, row pinRow) error {
		if key == ref {
			stored = row.Digest
		}
		return nil
	})
	if err != nil || stored != row.Digest {
		c.t.Errorf("pinned at %q, on disk %q, %v", row.Digest, stored, err)
	}
	return row.Digest
}

func TestAPinThatAnotherWasToldOfOutlivesWhoGaveUp(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, nil)
	first := c.slowly(up, image.Layers[0].Digest, c.Pin)
	// It is as the lock has it already.
	c.apply(Lock{Pins: []LockedPin{{ref, image.Digest.String(), nil}}}, ApplyOptions{})
	first.breakOff()
	if got := c.pinnedAt(ref); got != image.Digest {
		t.Errorf("pinned at %q, want %s", got, image.Digest)
	}
}

func TestAPinThatAnotherCompletedOutlivesWhoGaveUp(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, nil)
	ctx, cancel := context.WithCancel(context.Background())
	// As Pin does it, held between the row and the layers.
	seen := c.seePin(ref)
	v, err := c.operatorView(reference(t, ref).Repository)
	if err != nil {
		t.Fatal(err)
	}
	_, row, err := c.toFreeze(ctx, v, reference(t, ref), nil, seen, c.toPin)
	if err != nil {
		t.Fatal(err)
	}
	claimed, _, err := c.claimPin(ref, seen, row)
	if err != nil || claimed == nil {
		t.Fatal(err)
	}
	if p := c.pin(ref); !p.Complete || !p.Already {
		t.Errorf("%+v", p)
	}
	cancel()
	if err := c.releasePin(ref, claimed); err != nil {
		t.Fatal(err)
	}
	if got := c.pinnedAt(ref); got != image.Digest {
		t.Errorf("pinned at %q, want %s", got, image.Digest)
	}
}

func TestAPinIsGoneWhenAllWhoWantedItGaveUp(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, nil)
	first := c.slowly(up, image.Layers[0].Digest, c.Pin)
	claimed, _, err := c.claimPin(ref, c.seePin(ref), pinRow{Digest: image.Digest, Platforms: c.seePin(ref).Platforms})
	if err != nil {
		t.Fatal(err)
	}
	first.breakOff()
	if got := c.pinnedAt(ref); got != image.Digest {
		t.Errorf("pinned at %q while somebody waits for it", got)
	}
	if err := c.releasePin(ref, claimed); err != nil {
		t.Fatal(err)
	}
	if got := c.pinnedAt(ref); got != "" || len(c.desired.claims) != 0 {
		t.Errorf("pinned at %q, %d claims", got, len(c.desired.claims))
	}
}

func TestAnUnpinDuringAnUpdateThatIsBrokenOffStays(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, nil)
	c.pin(ref)
	moved := up.AddImage("team/app", "v1", []byte("new"))
	update := c.slowly(up, moved.Layers[0].Digest, c.Update)
	if err := c.Unpin(context.Background(), reference(t, ref)); err != nil {
		t.Fatal(err)
	}
	update.breakOff()
	if got := c.pinnedAt(ref); got != "" {
		t.Errorf("pinned at %s again", got)
	}
}

func TestARollbackDuringAnUpdateThatIsBrokenOffStays(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	oldest := up.AddImage("team/app", "v1", []byte("oldest"))
	c := newCache(t, up, nil)
	c.pin(ref)
	up.AddImage("team/app", "v1", []byte("one"))
	if _, err := c.Update(context.Background(), reference(t, ref), nil, nil); err != nil {
		t.Fatal(err)
	}
	moved := up.AddImage("team/app", "v1", []byte("new"))
	update := c.slowly(up, moved.Layers[0].Digest, c.Update)
	if _, err := c.Rollback(context.Background(), reference(t, ref), oldest.Digest, false, nil); err != nil {
		t.Fatal(err)
	}
	update.breakOff()
	if got := c.pinnedAt(ref); got != oldest.Digest {
		t.Errorf("pinned at %s, want %s", got, oldest.Digest)
	}
}

// Claims lie on one another: A at one digest, B at the next. In every order of
// giving up and being told, what was told of last stands, else what was there
// before.
func TestClaimsThatLieOnOneAnother(t *testing.T) {
	const base, a, b = digest.Digest("base"), digest.Digest("A"), digest.Digest("B")
	for _, test := range []struct {
		steps string // lower case gives up, upper case is told
		want  digest.Digest
	}{
		{"ab", base}, {"ba", base}, {"aB", b}, {"Ba", b}, {"Ab", a}, {"bA", a}, {"AB", b}, {"BA", b},
	} {
		up := registrytest.New(t, registrytest.Options{})
		c := newCache(t, up, nil)
		digests := map[digest.Digest]digest.Digest{}
		for _, name := range []digest.Digest{base, a, b} {
			image := up.AddImage("team/app", "", []byte(name))
			c.get("registry.test/team/app@" + image.Digest.String())
			c.settled(image.Digest)
			digests[name] = image.Digest
		}
		claims := map[digest.Digest]*claim{}
		for _, name := range []digest.Digest{base, a, b} {
			claimed, _, err := c.claimPin(ref, c.seePin(ref), pinRow{Digest: digests[name], Platforms: []string{PlatformAll}})
			if err != nil {
				t.Fatal(err)
			}
			claims[name] = claimed
			if name == base {
				c.settlePin(ref, claimed)
			}
		}
		for _, step := range test.steps {
			switch step {
			case 'a', 'b':
				if err := c.releasePin(ref, claims[digest.Digest(step-'a'+'A')]); err != nil {
					t.Fatal(err)
				}
			default:
				c.settlePin(ref, claims[digest.Digest(step)])
			}
		}
		if got := c.pinnedAt(ref); got != digests[test.want] || len(c.desired.claims) != 0 {
			t.Errorf("%s: pinned at %s, want %s (%s), %d claims left", test.steps, got, digests[test.want], test.want, len(c.desired.claims))
		}
	}
}

func TestAPinThatIsNotAsItWasSeenIsLookedAtAnew(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	image := up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, nil)
	seen := c.seePin(ref)
	c.pin(ref, PlatformAll)
	row := pinRow{Digest: image.Digest, Platforms: []string{"linux/amd64"}}
	if err := c.changeSeen(&row, pinChange{key: ref}); !errors.Is(err, errRaced) {
		t.Errorf("other platforms: %v", err)
	}
	if _, _, err := c.claimPin(ref, seen, row); !errors.Is(err, errRaced) {
		t.Errorf("%v", err)
	}
	if err := c.changeSeen(seen, pinChange{key: ref}); !errors.Is(err, errRaced) {
		t.Errorf("%v", err)
	}
	if err := c.changeAll(Lock{}, map[string]pinRow{}, []pinChange{{key: ref}}); !errors.Is(err, errRaced) {
		t.Errorf("%v", err)
	}
	if p := c.pinNow(ref); !slices.Equal(p.Platforms, []string{PlatformAll}) {
		t.Errorf("%+v", p)
	}
}

package registry

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"github.com/imagecache/imagecache/registry/registrytest"
)

func TestLockfileGoesRoundTrip(t *testing.T) {
	d := digest.FromString("x").String()
	lock := Lock{Pins: []LockedPin{
		{"registry.test/b:v1", d, []string{"linux/amd64", "linux/arm64"}},
		{"docker.io/library/a:1", d, []string{"all"}},
		{"registry.test/c@" + d, d, nil},
	}}
	once := lock.Format()
	slices.Reverse(lock.Pins)
	if !bytes.Equal(once, lock.Format()) {
		t.Error("the order of pins shows in the bytes")
	}
	read, err := ParseLock(once)
	if err != nil || !bytes.Equal(read.Format(), once) || len(read.Pins) != 3 {
		t.Errorf("%+v, %v\n%s", read, err, once)
	}
	short, err := ParseLock([]byte("version = 1\n[[pin]]\nreference='nginx'\ndigest=\"" + d + "\"\nplatforms = [ # two\n 'linux/amd64', ]\n"))
	if err != nil || short.Pins[0].Reference != "docker.io/library/nginx:latest" || short.Pins[0].Platforms[0] != "linux/amd64" {
		t.Errorf("%+v, %v", short, err)
	}
}

func TestLockfileErrorsHaveTheirLine(t *testing.T) {
	d := digest.FromString("x").String()
	pin := "[[pin]]\nreference = \"a.test/x:1\"\ndigest = \"" + d + "\"\n"
	for _, c := range []struct {
		content string
		line    int
		says    string
	}{
		{"", 0, "no version"},
		{"# all comment\n", 0, "no version"},
		{pin, 0, "no version"},
		{"version = 2\n", 1, "not known"},
		{"version = \"1\"\n", 1, "not known"},
		{"version = 1\n[[pin]\n", 2, ""},
		{"version = 1\nversion = 1\n", 2, ""},
		{"version = 1\n\n[[pins]]\n", 3, "unknown key pins"},
		{"version = 1\npin = []\n", 2, "unknown key pin"},
		{"version = 1\n" + pin + "tag = \"1\"\n", 5, "unknown key tag"},
		{"version = 1\n" + pin + "\n" + pin, 6, "at line 2"},
		{"version = 1\n[[pin]]\nreference = \"a.test/x:1\"\n", 2, "needs a reference and a digest"},
		{"version = 1\n[[pin]]\nreference = \"a.test/X\"\ndigest = \"" + d + "\"\n", 2, "X"},
		{"version = 1\n[[pin]]\nreference = 7\n", 3, "want a text"},
		{"version = 1\n" + pin + "platforms = \"all\"\n", 5, "want a list"},
		{"version = 1\n" + pin + "platforms = [1]\n", 5, "want a list"},
		{"version = 1\n" + pin + "platforms = [\"amd64 linux\"]\n", 2, "platform"},
	} {
		_, err := ParseLock([]byte(c.content))
		var wrong *LockError
		if !errors.As(err, &wrong) || wrong.Line != c.line || !strings.Contains(wrong.Message, c.says) {
			t.Errorf("%q: %v, want line %d: %s", c.content, err, c.line, c.says)
		}
	}
}

func FuzzParseLock(f *testing.F) {
	f.Add([]byte("version = 1\n[[pin]]\nreference = \"a.test/x:1\"\ndigest = \"" + digest.FromString("x").String() + "\"\nplatforms = [\"all\"]\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		lock, err := ParseLock(content)
		if err != nil {
			return
		}
		again, err := ParseLock(lock.Format())
		if err != nil || !bytes.Equal(again.Format(), lock.Format()) {
			t.Errorf("%v\n%s", err, lock.Format())
		}
	})
}

func (c *cache) apply(lock Lock, o ApplyOptions) Applied {
	c.t.Helper()
	applied, err := c.Apply(context.Background(), lock, o)
	if err != nil {
		c.t.Fatal(err)
	}
	return applied
}

func actions(a Applied) string {
	var all []string
	for _, c := range a.Changes {
		all = append(all, c.Action+" "+strings.TrimPrefix(c.Reference, "registry.test/team/"))
	}
	return strings.Join(all, ", ")
}

func TestApplyMakesALockSo(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	v1 := up.AddImage("team/app", "v1", []byte("one"))
	v2 := up.AddImage("team/app", "v2", []byte("two"))
	up.AddImage("team/app", "v3", []byte("three"))
	c := newCache(t, up, nil)
	c.pin("registry.test/team/app:v1")
	c.pin("registry.test/team/app:v3")
	lock := Lock{Pins: []LockedPin{
		{"registry.test/team/app:v1", v2.Digest.String(), nil},
		{"registry.test/team/app:v2", v2.Digest.String(), []string{"linux/amd64"}},
	}}
	const all = "move app:v1, add app:v2, remove app:v3"
	if got := actions(c.apply(lock, ApplyOptions{DryRun: true, Prune: true})); got != all {
		t.Errorf("dry run: %s", got)
	}
	if p := c.pinNow("registry.test/team/app:v1"); p.Digest != v1.Digest.String() {
		t.Error("a dry run moved a pin")
	}
	if got := actions(c.apply(lock, ApplyOptions{})); got != "move app:v1, add app:v2" {
		t.Errorf("without prune: %s", got)
	}
	if got := actions(c.apply(lock, ApplyOptions{Prune: true})); got != "remove app:v3" {
		t.Errorf("with prune: %s", got)
	}
	if got := actions(c.apply(lock, ApplyOptions{Prune: true})); got != "" {
		t.Errorf("again: %s", got)
	}
	eventually(t, func() bool { return c.pinNow("registry.test/team/app:v2").Complete })
	if got := c.Lock(); len(got.Pins) != 2 || got.Pins[0].Digest != v2.Digest.String() {
		t.Errorf("%+v", got)
	}
	if h := c.pinNow("registry.test/team/app:v1").History; len(h) != 1 || h[0].Digest != v1.Digest.String() {
		t.Errorf("%+v", h)
	}
	c.restart()
	roots, err := c.store.Roots()
	if err != nil || len(roots) != 2 {
		t.Errorf("%v, %v", roots, err)
	}
}

func TestApplyIsAllOrNothing(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	v1 := up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, nil)
	_, err := c.Apply(context.Background(), Lock{Pins: []LockedPin{
		{"registry.test/team/app:v1", v1.Digest.String(), nil},
		{"registry.test/team/app:v2", digest.FromString("nowhere").String(), nil},
	}}, ApplyOptions{})
	if err == nil || !strings.Contains(err.Error(), "team/app:v2") {
		t.Errorf("%v", err)
	}
	roots, rootErr := c.store.Roots()
	if pins, _ := c.Pins(context.Background(), false); len(pins) != 0 || len(roots) != 0 || rootErr != nil {
		t.Errorf("%v, %v", pins, roots)
	}
}

func TestApplyOfWhatIsCachedNeedsNoUpstream(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	v1 := up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, nil)
	c.pull(ref)
	up.Stop()
	c.restart()
	c.apply(Lock{Pins: []LockedPin{{ref, v1.Digest.String(), nil}}}, ApplyOptions{})
	if p := c.pinNow(ref); !p.Complete {
		t.Errorf("%+v", p)
	}
}

func TestAFollowedLockfileTakesAwayItsOwnPinsOnly(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	v1 := up.AddImage("team/app", "v1", []byte("one"))
	up.AddImage("team/app", "v2", []byte("two"))
	c := newCache(t, up, nil)
	c.pin("registry.test/team/app:v2")
	followed := ApplyOptions{Followed: true}
	c.apply(Lock{Pins: []LockedPin{{ref, v1.Digest.String(), nil}}}, followed)
	if p := c.pinNow(ref); !p.Lockfile {
		t.Errorf("%+v", p)
	}
	c.restart()
	if got := actions(c.apply(Lock{}, followed)); got != "remove app:v1" {
		t.Errorf("%s", got)
	}
	c.pinNow("registry.test/team/app:v2")
}

// A kill between the writes of a change leaves roots moved and rows not: the
// next start goes by the rows.
func TestAKillBetweenRootsAndRowsKeepsTheOldPins(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	v1 := up.AddImage("team/app", "v1", []byte("one"))
	v2 := up.AddImage("team/app", "v2", []byte("two"))
	c := newCache(t, up, nil)
	c.pin(ref)
	for _, err := range []error{
		c.store.SetRoot(rootOfPin+ref, v2.Digest), c.store.SetRoot(rootOfPin+"registry.test/team/app:v2", v2.Digest),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c.restart()
	roots, err := c.store.Roots()
	if err != nil || len(roots) != 1 || roots[rootOfPin+ref] != v1.Digest {
		t.Errorf("%v, %v", roots, err)
	}
}

// After the rows are written, roots of pins that are gone are too many.
func TestAKillAfterTheRowsKeepsTheNewPins(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, nil)
	c.pin(ref)
	if err := c.state.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketPins).Delete([]byte(ref)) }); err != nil {
		t.Fatal(err)
	}
	c.restart()
	if roots, err := c.store.Roots(); err != nil || len(roots) != 0 {
		t.Errorf("%v, %v", roots, err)
	}
}

// TestPinsOfTheLockfileAreNotChangedByHand, for the lockfile would change them back.
func TestPinsOfTheLockfileAreNotChangedByHand(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	v1 := up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, func(c *cache) { c.lockfile = "/etc/pins.lock" })
	old := up.AddImage("team/app", "", []byte("old"))
	c.pin(ref + "@" + old.Digest.String())
	c.pin("registry.test/team/app:mine@" + old.Digest.String())
	c.apply(Lock{Pins: []LockedPin{{ref, v1.Digest.String(), nil}}}, ApplyOptions{Followed: true})
	up.AddImage("team/app", "v1", []byte("moved"))
	ctx, in := context.Background(), reference(t, ref)
	platforms := []string{PlatformAll}
	for what, change := range map[string]func() error{
		"unpin":           func() error { return c.Unpin(ctx, in) },
		"update":          func() error { _, err := c.Update(ctx, in, nil, nil); return err },
		"other digest":    func() error { _, err := c.Pin(ctx, reference(t, ref+"@"+old.Digest.String()), nil, nil); return err },
		"other platforms": func() error { _, err := c.Pin(ctx, in, platforms, nil); return err },
		"rollback":        func() error { _, err := c.Rollback(ctx, in, "", false, nil); return err },
		"prune":           func() error { _, err := c.Apply(ctx, Lock{}, ApplyOptions{Prune: true}); return err },
		"apply": func() error {
			_, err := c.Apply(ctx, Lock{Pins: []LockedPin{{ref, old.Digest.String(), nil}}}, ApplyOptions{})
			return err
		},
	} {
		err := change()
		if e := wantCode(t, err, CodePinned); !strings.Contains(e.Message, "comes from the lockfile /etc/pins.lock") {
			t.Errorf("%s: %s", what, e.Message)
		}
		if row, _ := c.pinned(in); row.Digest != v1.Digest || !row.Lockfile || slices.Equal(row.Platforms, platforms) {
			t.Errorf("%s changed it to %+v", what, row)
		}
	}
	if p := c.pin(ref); !p.Already || !p.Lockfile {
		t.Errorf("what changes nothing: %+v", p)
	}
	if err := c.Unpin(ctx, reference(t, "registry.test/team/app:mine")); err != nil {
		t.Errorf("one that is not the lockfile's: %v", err)
	}
}

func TestTheMarkOfTheLockfileIsNotLost(t *testing.T) {
	up := registrytest.New(t, registrytest.Options{})
	v1 := up.AddImage("team/app", "v1", []byte("one"))
	c := newCache(t, up, nil) // which follows none any more, and so may change them
	c.apply(Lock{Pins: []LockedPin{{ref, v1.Digest.String(), nil}}}, ApplyOptions{Followed: true})
	up.AddImage("team/app", "v1", []byte("moved"))
	if p, err := c.Update(context.Background(), reference(t, ref), nil, nil); err != nil || !p.Lockfile {
		t.Errorf("update: %+v, %v", p, err)
	}
	if p, err := c.Rollback(context.Background(), reference(t, ref), "", false, nil); err != nil || !p.Lockfile {
		t.Errorf("rollback: %+v, %v", p, err)
	}
	if p := c.pin(ref, PlatformAll); !p.Lockfile {
		t.Errorf("pin: %+v", p)
	}
}

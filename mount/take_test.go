package mount_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/mount"
)

// take asks as containerd's unpacker does: Prepare, then look up what it was
// told is there, as containerd's metadata store does.
func (r *room) take(ctx context.Context, key string, chain digest.Digest, parent string) (name string, taken bool) {
	r.t.Helper()
	_, err := r.Prepare(ctx, key, parent, ref(chain))
	if err == nil {
		return "", false
	}
	if !errdefs.IsAlreadyExists(err) {
		r.t.Fatalf("Prepare of %s on %q: %v", chain, parent, err)
	}
	filter := fmt.Sprintf(`labels.%q==%s,parent==%q`, snapshots.LabelSnapshotRef, chain, parent)
	if err := r.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind == snapshots.KindCommitted {
			name = info.Name
		}
		return nil
	}, filter); err != nil {
		r.t.Fatal(err)
	}
	if name == "" {
		r.t.Fatalf("Prepare of %s on %q said that it is here, and Walk finds nothing", chain, parent)
	}
	return name, true
}

// takeAll takes all layers of an image, each on top of the last.
func (r *room) takeAll(chains []digest.Digest) (top string) {
	r.t.Helper()
	for i, chain := range chains {
		name, taken := r.take(r.t.Context(), fmt.Sprintf("extract-%d", i), chain, top)
		if !taken {
			r.t.Fatalf("layer %d was not taken", i)
		}
		top = name
	}
	return top
}

func eachKind(t *testing.T, test func(t *testing.T, kind string)) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) { test(t, kind) })
	}
}

var threeLayers = [][]file{
	{{"etc/", ""}, {"etc/name", "one"}, {"etc/gone", "one"}, {"data/", ""}, {"data/old", "one"}},
	{{"etc/", ""}, {"etc/name", "two"}, {"etc/.wh.gone", ""}, {"data/", ""}, {"data/.wh..wh..opq", ""}, {"data/new", "two"}},
	{{"top", "three"}},
}

func TestLayersOfAnImageAreTaken(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		r := newRoom(t, kind)
		top := r.takeAll(r.shelf.put(t, "app", threeLayers...))
		mounts, err := r.Prepare(t.Context(), "container", top)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"etc/name": "two", "data/new": "two", "top": "three"} {
			if got := see(t, mounts, name); got != want {
				t.Errorf("%s holds %q, want %q", name, got, want)
			}
		}
		within(t, mounts, func(dir string) {
			if has(dir, "etc/gone") || has(dir, "data/old") {
				t.Error("what a layer removed is there")
			}
		})
		if usage, err := r.Usage(t.Context(), top); err != nil || usage.Size <= 0 {
			t.Errorf("the usage of a form is %+v, %v", usage, err)
		}
		if s := r.Status(); s.Taken != 3 || s.Waiting != 0 {
			t.Errorf("status %+v, want 3 taken", s)
		}
	})
}

func TestLayersThatWereRemovedAreNotInUse(t *testing.T) {
	r := newRoom(t, kinds[0])
	name := r.takeAll(r.shelf.put(t, "app", threeLayers...))
	if got := r.forms.Stats().InUse; got != 3 {
		t.Errorf("%d forms are in use, want 3", got)
	}
	for name != "" {
		info, err := r.Stat(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Remove(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		name = info.Parent
	}
	if got := r.forms.Stats().InUse; got != 0 {
		t.Errorf("%d forms are in use still", got)
	}
}

// The same chain ID may be wanted on top of two parents: two namespaces have
// each their own.
func TestOneLayerUnderTwoParents(t *testing.T) {
	r := newRoom(t, kinds[0])
	chains := r.shelf.put(t, "app", threeLayers[:2]...)
	taken := r.takeAll(chains)
	if _, err := r.Prepare(t.Context(), "own", ""); err != nil {
		t.Fatal(err)
	}
	own := "other/7/" + chains[0].String() // as containerd names what it unpacked itself
	if err := r.Commit(t.Context(), own, "own"); err != nil {
		t.Fatal(err)
	}
	second, ok := r.take(t.Context(), "x", chains[1], own)
	if !ok || second == taken {
		t.Fatalf("on another parent: %q, taken %v", second, ok)
	}
	again, ok := r.take(t.Context(), "y", chains[1], own)
	if !ok || again != second {
		t.Errorf("asked again it is %q, taken %v; want %q", again, ok, second)
	}
	if s := r.Status(); s.Reused != 1 {
		t.Errorf("reused %d times, want 1", s.Reused)
	}
}

// A miss of any kind is an ordinary Prepare, counted by its reason.
func TestWhatIsInTheWayIsAMiss(t *testing.T) {
	tests := map[string]func(t *testing.T, r *room) (chain digest.Digest, parent string){
		"unknown": func(*testing.T, *room) (digest.Digest, string) { return digest.FromString("never seen"), "" },
		"parent": func(t *testing.T, r *room) (digest.Digest, string) {
			other := r.takeAll(r.shelf.put(t, "other", []file{{"other", "other"}}))
			return r.shelf.put(t, "app", threeLayers[:2]...)[1], other
		},
		"unpack": func(t *testing.T, r *room) (digest.Digest, string) {
			r.shelf.set(func() { r.shelf.fail = errors.New("upstream is away") })
			return r.shelf.put(t, "app", threeLayers[0])[0], ""
		},
	}
	for reason, arrange := range tests {
		t.Run(reason, func(t *testing.T) {
			r := newRoom(t, kinds[0])
			chain, parent := arrange(t, r)
			before := r.Status().Missed[reason]
			mounts, err := r.Prepare(t.Context(), "extract", parent, ref(chain))
			if err != nil || len(mounts) == 0 {
				t.Fatalf("an ordinary Prepare is wanted, not %v, %v", mounts, err)
			}
			if got := r.Status().Missed[reason] - before; got != 1 {
				t.Errorf("%q counted %d times, want 1: %+v", reason, got, r.Status().Missed)
			}
			if err := r.Commit(t.Context(), "default/1/"+chain.String(), "extract", ref(chain)); err != nil {
				t.Errorf("the pull cannot go on: %v", err)
			}
		})
	}
}

func TestAPrepareWaitsForALayerUnderWay(t *testing.T) {
	r := newRoom(t, kinds[0])
	give := r.shelf.withhold()
	defer give()
	chains := r.shelf.put(t, "app", threeLayers[0])
	answered := make(chan error, 1)
	go func() {
		_, err := r.Prepare(t.Context(), "extract", "", ref(chains[0]))
		answered <- err
	}()
	eventually(t, "a Prepare that waits", func() bool { return r.Status().Waiting == 1 })
	select {
	case err := <-answered:
		t.Fatalf("it did not wait: %v", err)
	default:
	}
	give()
	if err := <-answered; !errdefs.IsAlreadyExists(err) {
		t.Errorf("after it waited: %v", err)
	}
}

func TestAWaitHasABound(t *testing.T) {
	r := newRoom(t, kinds[0])
	give := r.shelf.withhold()
	defer give()
	chains := r.shelf.put(t, "app", threeLayers[0])
	short := openAs(t, r, time.Millisecond)
	if _, err := short.Prepare(t.Context(), "extract", "", ref(chains[0])); err != nil {
		t.Errorf("an ordinary Prepare is wanted, not %v", err)
	}
	if got := short.Status().Missed["waited"]; got != 1 {
		t.Errorf("counted %d times", got)
	}
}

// Who hangs up while waiting gets no snapshot and is no miss.
func TestACallerThatLeavesWhileWaiting(t *testing.T) {
	r := newRoom(t, kinds[0])
	give := r.shelf.withhold()
	defer give()
	chains := r.shelf.put(t, "app", threeLayers[0])
	ctx, leave := context.WithCancel(t.Context())
	answered := make(chan error, 1)
	go func() {
		_, err := r.Prepare(ctx, "extract", "", ref(chains[0]))
		answered <- err
	}()
	eventually(t, "a Prepare that waits", func() bool { return r.Status().Waiting == 1 })
	leave()
	if err := <-answered; !errors.Is(err, context.Canceled) {
		t.Errorf("answered %v", err)
	}
	if _, err := r.Stat(t.Context(), "extract"); !errdefs.IsNotFound(err) {
		t.Errorf("a snapshot is there: %v", err)
	}
	if got := r.Status().Missed; got["waited"]+got["unpack"] != 0 {
		t.Errorf("it was counted: %v", got)
	}
}

// containerd replaces all labels when it updates one, and knows nothing of ours.
func TestOwnLabelsAreKeptAndHidden(t *testing.T) {
	r := newRoom(t, kinds[0])
	top := r.takeAll(r.shelf.put(t, "app", threeLayers[0]))
	for _, paths := range [][]string{nil, {"labels"}, {"labels.x"}} {
		if _, err := r.Update(t.Context(), snapshots.Info{Name: top, Labels: map[string]string{"x": "y", "imagecache/form": "99"}}, paths...); err != nil {
			t.Fatal(paths, err)
		}
		info, err := r.Stat(t.Context(), top)
		if err != nil || info.Labels["x"] != "y" || info.Labels[snapshots.LabelSnapshotRef] == "" {
			t.Errorf("after an update of %v: %v, %v", paths, info.Labels, err)
		}
		for name := range info.Labels {
			if strings.HasPrefix(name, "imagecache/") {
				t.Errorf("label %s is shown", name)
			}
		}
	}
	for _, name := range []string{"labels.imagecache/form", "labels." + snapshots.LabelSnapshotRef} {
		if _, err := r.Update(t.Context(), snapshots.Info{Name: top, Labels: map[string]string{strings.TrimPrefix(name, "labels."): "99"}}, name); !errdefs.IsInvalidArgument(err) {
			t.Errorf("update of %s: %v", name, err)
		}
	}
	if _, err := r.View(t.Context(), "view", top, snapshots.WithLabels(map[string]string{"imagecache/folder": "elsewhere"})); err != nil {
		t.Fatal(err)
	}
	mounts, err := r.Mounts(t.Context(), "view")
	if err != nil || see(t, mounts, "etc/name") != "one" {
		t.Errorf("after all that: %v, %v", mounts, err)
	}
}

func openAs(t *testing.T, r *room, wait time.Duration) *mount.Snapshotter {
	t.Helper()
	r.close()
	again := &room{t: t, root: r.root, kind: r.kind, shelf: r.shelf, wait: wait}
	again.open()
	return again.Snapshotter
}

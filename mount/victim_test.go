package mount_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"

	cmount "github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/mount"
	"github.com/imagecache/imagecache/mount/forms"
)

// victim is the argument with which the test's program is one that gets killed.
const victim = "victim"

// killRounds is how often it is killed. Each time at another moment of the same
// dozen steps; a fault that one moment in ten shows is found by most runs.
const killRounds = 6

// After a kill at any moment, start mends what it left: each snapshot that is
// there can be mounted, or is an active one that nobody has, and no folder is left
// without a row.
func TestAKillAtAnyMoment(t *testing.T) {
	t.Parallel()
	needMounts(t)
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			shelf := newShelf()
			chains := shelf.put(t, "app", threeLayers...)
			root := t.TempDir() + "/rootfs"
			for range killRounds {
				killOne(t, root, kind)
				r := openRoom(t, root, kind, shelf)
				checkWhole(t, r)
				if got := see(t, viewOf(t, r, r.takeAll(chains)), "top"); got != "three" {
					t.Fatalf("after a kill the image holds %q", got)
				}
				checkTidy(t, r)
			}
			unmountBelow(t, root)
		})
	}
}

// killOne runs a victim and kills it after some steps, and a little.
func killOne(t *testing.T, root, kind string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], victim, root, kind)
	cmd.Stderr = logOf{t}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	steps := bufio.NewScanner(out)
	for range rand.IntN(60) + 1 {
		if !steps.Scan() {
			t.Fatalf("the victim ended by itself: %v", cmd.Wait())
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, out) // what it still said
	if err := cmd.Wait(); err == nil {
		t.Fatal("the victim was not killed")
	}
}

// beVictim makes, commits and removes snapshots, and root filesystems for
// people, several at once, for ever, and says when each step begins.
func beVictim(root, kind string) {
	f, err := forms.Open(forms.Options{Root: root, Kind: kind})
	if err != nil {
		panic(err)
	}
	shelf := newShelf()
	chains := shelf.put(noTest{}, "app", threeLayers...)
	s, err := mount.Open(mount.Options{Root: root, Forms: f, Images: shelf, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		panic(err)
	}
	var all sync.WaitGroup
	for worker := range 3 {
		all.Go(func() {
			for i := 0; ; i++ {
				if err := victimRound(s, fmt.Sprintf("%d-%d-%d", os.Getpid(), worker, i), chains); err != nil {
					panic(err)
				}
			}
		})
	}
	all.Wait()
}

func victimRound(s *mount.Snapshotter, key string, chains []digest.Digest) error {
	ctx := context.Background()
	for _, step := range []func() error{
		func() error { _, err := s.Prepare(ctx, key, ""); return err },
		func() error { return s.Commit(ctx, key+"-done", key) },
		func() error { _, err := s.Prepare(ctx, key, key+"-done"); return err },
		func() error {
			_, err := s.Prepare(ctx, key+"-extract", "", ref(chains[0]))
			return ignore(err, errdefs.IsAlreadyExists)
		},
		func() error { _, err := s.Acquire(ctx, mount.Wish{Key: key, Ref: "app", Writable: true}); return err },
		func() error { return s.Remove(ctx, key) },
		func() error { return s.Remove(ctx, key+"-done") },
		func() error { return s.ReleaseRootfs(key) },
	} {
		fmt.Println("step")
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func ignore(err error, which func(error) bool) error {
	if which(err) {
		return nil
	}
	return err
}

// checkWhole checks that all that is there can be used.
func checkWhole(t *testing.T, r *room) {
	t.Helper()
	var all []snapshots.Info
	if err := r.Walk(t.Context(), func(_ context.Context, info snapshots.Info) error {
		all = append(all, info)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, info := range all {
		if info.Kind == snapshots.KindCommitted {
			within(t, viewOf(t, r, info.Name), func(string) {})
			continue
		}
		mounts, err := r.Mounts(t.Context(), info.Name)
		if err != nil {
			t.Fatal(err)
		}
		within(t, mounts, func(string) {})
	}
	list, err := r.ListRootfs()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		got, err := r.Acquired(t.Context(), l.Key)
		if err != nil || see(t, got.Mounts, "top") != "three" {
			t.Errorf("root filesystem %s: %v", l.Key, err)
		}
	}
}

// viewOf is what a committed snapshot is mounted by.
func viewOf(t *testing.T, r *room, name string) []cmount.Mount {
	t.Helper()
	mounts, err := r.View(t.Context(), "view", name)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Remove(t.Context(), "view"); err != nil {
		t.Fatal(err)
	}
	return mounts
}

// noTest stands where a victim has no test.
type noTest struct{ testing.TB }

func (noTest) Helper()        {}
func (noTest) Fatal(a ...any) { panic(fmt.Sprint(a...)) }

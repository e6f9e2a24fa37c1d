package mount_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestFormsInUseOutliveARestart(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		r := newRoom(t, kind)
		top := r.takeAll(r.shelf.put(t, "app", threeLayers...))
		mounts, err := r.Prepare(t.Context(), "container", top)
		if err != nil {
			t.Fatal(err)
		}
		within(t, mounts, func(dir string) {
			if err := os.WriteFile(filepath.Join(dir, "written"), []byte("before"), 0o644); err != nil {
				t.Fatal(err)
			}
			r = r.again()
			r.forms.Idle(1 << 40)
			if content, err := os.ReadFile(filepath.Join(dir, "top")); err != nil || string(content) != "three" {
				t.Errorf("the container that runs on sees %q, %v", content, err)
			}
		})
		if mounts, err = r.Mounts(t.Context(), "container"); err != nil {
			t.Fatal(err)
		}
		if see(t, mounts, "top") != "three" || see(t, mounts, "written") != "before" {
			t.Error("after a restart the container is another")
		}
	})
}

// After a boot nothing is mounted any more.
func TestMountsAfterABoot(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		r := newRoom(t, kind)
		top := r.takeAll(r.shelf.put(t, "app", threeLayers...))
		if _, err := r.View(t.Context(), "view", top); err != nil {
			t.Fatal(err)
		}
		r.stop()
		r = r.again()
		mounts, err := r.Mounts(t.Context(), "view")
		if err != nil {
			t.Fatal(err)
		}
		if got := see(t, mounts, "etc/name"); got != "two" {
			t.Errorf("it holds %q", got)
		}
	})
}

// A form that the disk lost is made again before Mounts answers, also when the
// forms know nothing of it any more.
func TestALostFormIsMadeAgain(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		r := newRoom(t, kind)
		top := r.takeAll(r.shelf.put(t, "app", threeLayers...))
		if _, err := r.View(t.Context(), "view", top); err != nil {
			t.Fatal(err)
		}
		r.stop()
		loseForms(t, r.root)
		r = r.again()
		mounts, err := r.Mounts(t.Context(), "view")
		if err != nil {
			t.Fatal(err)
		}
		if see(t, mounts, "top") != "three" || see(t, mounts, "etc/name") != "two" {
			t.Error("what was made again is another")
		}
		if s := r.Status(); s.Mended != 3 || s.Lost != 0 {
			t.Errorf("%+v; want 3 mended", s)
		}
		r.forms.Idle(1 << 40) // it is in use as before
		if mounts, err = r.again().Mounts(t.Context(), "view"); err != nil || see(t, mounts, "top") != "three" {
			t.Errorf("after another restart: %v", err)
		}
	})
}

func TestALostFormThatCannotBeMadeAgain(t *testing.T) {
	r := newRoom(t, kinds[0])
	top := r.takeAll(r.shelf.put(t, "app", threeLayers...))
	r.stop()
	loseForms(t, r.root)
	r = r.again()
	r.shelf.set(func() { r.shelf.fail = errors.New("upstream is away") })
	if _, err := r.View(t.Context(), "view", top); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "upstream is away") {
		t.Errorf("answered %v", err)
	}
	if s := r.Status(); s.Lost == 0 {
		t.Errorf("it was not counted: %+v", s)
	}
}

// loseForms has the disk lose all forms, and what is known of them.
func loseForms(t *testing.T, root string) {
	t.Helper()
	for _, name := range names(t, root, ".") {
		switch name {
		case "snapshots.db", "removed", "rootfs":
			continue
		}
		if err := os.RemoveAll(filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// What was unpacked in the ordinary way is mended as well when an image has it,
// and told of when none has.
func TestALostFolder(t *testing.T) {
	r := newRoom(t, kinds[0])
	chain := r.shelf.put(t, "app", threeLayers[0])[0]
	for name, commit := range map[string]string{"image": "default/1/" + chain.String(), "extract": "own"} {
		if _, err := r.Prepare(t.Context(), name, ""); err != nil {
			t.Fatal(err)
		}
		if err := r.Commit(t.Context(), commit, name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Prepare(t.Context(), "container", "own"); err != nil {
		t.Fatal(err)
	}
	loseForms(t, r.root)
	r = r.again()
	if mounts, err := r.View(t.Context(), "view", "default/1/"+chain.String()); err != nil || see(t, mounts, "etc/name") != "one" {
		t.Errorf("of an image: %v", err)
	}
	for what, ask := range map[string]func() error{
		"a layer of its own":       func() error { _, err := r.View(t.Context(), "other", "own"); return err },
		"what a container wrote":   func() error { _, err := r.Mounts(t.Context(), "container"); return err },
		"the usage of what it was": func() error { _, err := r.Usage(t.Context(), "container"); return err },
	} {
		if err := ask(); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "not on the disk any more") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := errors.Join(r.Remove(t.Context(), "container"), r.Remove(t.Context(), "own")); err != nil {
		t.Errorf("what was lost cannot be removed: %v", err)
	}
}

// A start sweeps what a kill left, beside its other work.
func TestAStartSweepsWhatAKillLeft(t *testing.T) {
	r := newRoom(t, kinds[0])
	if _, err := r.Prepare(t.Context(), "kept", ""); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"layers/s0000000/fs", "removed/17/s1111111/work", "rootfs/.0123/fs"} {
		if err := os.MkdirAll(filepath.Join(r.root, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	r = r.again()
	eventually(t, "sweep", func() bool {
		return !has(r.root, "layers/s0000000") && !has(r.root, "rootfs/.0123") && len(names(t, r.root, "removed")) == 0
	})
	if _, err := r.Mounts(t.Context(), "kept"); err != nil {
		t.Errorf("what was in use: %v", err)
	}
}

// Remove does not wait for files to go: containerd holds a lock meanwhile.
func TestRemoveDeletesLater(t *testing.T) {
	r := newRoom(t, kinds[0])
	mounts, err := r.Prepare(t.Context(), "big", "")
	if err != nil {
		t.Fatal(err)
	}
	upper := mounts[0].Source
	// A folder that cannot be deleted shows that nobody waits for it.
	if err := unix.Mount("tmpfs", upper, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := r.Remove(t.Context(), "big"); err != nil {
		t.Errorf("remove: %v", err)
	}
	if _, err := r.Stat(t.Context(), "big"); !errdefs.IsNotFound(err) {
		t.Errorf("it is there still: %v", err)
	}
	unmountBelow(t, r.root)
	checkTidy(t, r)
}

// Nobody has to ask for a cleanup.
func TestWhatIsRemovedGoesByItself(t *testing.T) {
	r := newRoom(t, kinds[0])
	if _, err := r.Prepare(t.Context(), "a", ""); err != nil {
		t.Fatal(err)
	}
	if err := r.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "deletion", func() bool { return len(names(t, r.root, "layers"))+len(names(t, r.root, "removed")) == 0 })
}

func TestADamagedDatabaseDoesNotBlockTheStart(t *testing.T) {
	r := newRoom(t, kinds[0])
	if _, err := r.Prepare(t.Context(), "lost", ""); err != nil {
		t.Fatal(err)
	}
	r.close()
	if err := os.WriteFile(filepath.Join(r.root, "snapshots.db"), []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	r = r.again()
	if top := r.takeAll(r.shelf.put(t, "app", threeLayers...)); top == "" {
		t.Error("nothing can be taken")
	}
	checkTidy(t, r)
}

// Containers run on when the database of snapshots is lost, and nothing of what
// they wrote goes: nobody could give it back.
func TestWhatContainersWroteOutlivesTheDatabase(t *testing.T) {
	for damage, lose := range map[string]func(path string) error{
		"damaged": func(path string) error {
			return os.WriteFile(path, []byte(strings.Repeat("no database ", 1000)), 0o600)
		},
		"missing": os.Remove,
	} {
		t.Run(damage, func(t *testing.T) {
			r := newRoom(t, kinds[0])
			mounts, err := r.Prepare(t.Context(), "container", r.takeAll(r.shelf.put(t, "app", threeLayers...)))
			if err != nil {
				t.Fatal(err)
			}
			within(t, mounts, func(dir string) {
				if err := os.WriteFile(filepath.Join(dir, "written"), []byte("before"), 0o644); err != nil {
					t.Fatal(err)
				}
				r.close()
				if err := lose(filepath.Join(r.root, "snapshots.db")); err != nil {
					t.Fatal(err)
				}
				r = r.again().again() // the second start finds a database
				if err := r.Cleanup(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, "more"), []byte("after"), 0o644); err != nil {
					t.Errorf("the container cannot write any more: %v", err)
				}
				if freed := r.forms.Idle(1 << 40); freed > 0 {
					t.Errorf("forms of %d bytes went, and the container runs on them", freed)
				}
			})
			if kept, _ := filepath.Glob(filepath.Join(r.root, "rescued", "*", "s*", "fs", "*")); len(kept) != 2 {
				t.Errorf("kept %q; want both files", kept)
			}
		})
	}
}

func names(t testing.TB, root, folder string) (list []string) {
	t.Helper()
	dirs, err := os.ReadDir(filepath.Join(root, folder))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		list = append(list, dir.Name())
	}
	return list
}

// rowFolders reads the folder of each snapshot from the database, of which the
// snapshotter tells nobody; it opens the room again.
func rowFolders(t *testing.T, r *room) map[string]string {
	t.Helper()
	r.close()
	rows, err := storage.NewMetaStore(filepath.Join(r.root, "snapshots.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	folders := map[string]string{}
	if err := rows.WithTransaction(t.Context(), false, func(ctx context.Context) error {
		return storage.WalkInfo(ctx, func(_ context.Context, info snapshots.Info) error {
			folders[info.Name] = info.Labels["imagecache/folder"]
			return nil
		})
	}); err != nil {
		t.Fatal(err)
	}
	return folders
}

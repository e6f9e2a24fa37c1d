package mount_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// Two hundred callers at once, while forms are dropped for space and folders
// are swept: nobody meets an error, nothing that is in use goes, and at the end
// nothing is left.
func TestTwoHundredAtOnce(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, kind string) {
		r := newRoom(t, kind)
		chains := r.shelf.put(t, "app", threeLayers...)
		ctx, stop := context.WithCancel(t.Context())
		var beside, callers sync.WaitGroup
		beside.Go(func() {
			for ctx.Err() == nil {
				r.forms.Idle(1 << 40)
				if err := r.Cleanup(ctx); err != nil && ctx.Err() == nil {
					t.Error("cleanup:", err)
				}
			}
		})
		for i := range 200 {
			callers.Go(func() {
				if err := oneLife(t.Context(), r, i, chains[i%len(chains)].String()); err != nil {
					t.Errorf("caller %d: %v", i, err)
				}
			})
		}
		callers.Wait()
		top := r.takeAll(chains)
		if mounts, err := r.View(t.Context(), "last", top); err != nil || see(t, mounts, "top") != "three" {
			t.Error("after the herd:", mounts, err)
		}
		stop()
		beside.Wait()
		if s := r.Status(); s.Mended+s.Lost > 0 {
			t.Errorf("layers in use went: %+v", s)
		}
		checkTidy(t, r)
	})
}

// oneLife is what containerd does with a layer, a container, and an image that goes.
func oneLife(ctx context.Context, r *room, i int, ref string) error {
	key, name, view := fmt.Sprintf("key-%d", i), fmt.Sprintf("default/%d/layer", i), fmt.Sprintf("view-%d", i)
	base, err := prepareOn(ctx, r, key, ref)
	if err != nil {
		return err
	}
	if _, err := r.Mounts(ctx, key); err != nil {
		return err
	}
	if err := r.Commit(ctx, name, key); err != nil {
		return err
	}
	if _, err := r.View(ctx, view, name); err != nil {
		return err
	}
	err = errors.Join(r.Remove(ctx, view), r.Remove(ctx, name))
	// Others have the layer as a parent too, or removed it already.
	if gone := r.Remove(ctx, base); !errdefs.IsFailedPrecondition(gone) && !errdefs.IsNotFound(gone) {
		err = errors.Join(err, gone)
	}
	return err
}

// prepareOn prepares a container on a layer, which is taken anew when somebody
// removed it in between. What is not a first layer has an ordinary one below.
func prepareOn(ctx context.Context, r *room, key, ref string) (base string, err error) {
	for {
		_, err = r.Prepare(ctx, key+"-extract", "", snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: ref}))
		switch {
		case err == nil:
			base = key + "-base"
			err = r.Commit(ctx, base, key+"-extract")
		case errdefs.IsAlreadyExists(err):
			base, err = "", r.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
				base = info.Name
				return nil
			}, fmt.Sprintf(`labels.%q==%s`, snapshots.LabelSnapshotRef, ref))
		}
		if err != nil {
			return "", err
		}
		if _, err = r.Prepare(ctx, key, base); err == nil || !errdefs.IsNotFound(err) && base != "" {
			return base, err
		}
	}
}

// checkTidy checks that rows and folders agree, and that nothing waits to be deleted.
func checkTidy(t *testing.T, r *room) {
	t.Helper()
	if err := r.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	folders := map[string]bool{}
	for _, name := range names(t, r.root, "layers") {
		if name[0] == 's' {
			folders[name] = true
		}
	}
	for name, folder := range rowFolders(t, r) {
		if folder != "" && !folders[folder] {
			t.Errorf("the folder of %s is gone", name)
		}
		delete(folders, folder)
	}
	if left := names(t, r.root, "removed"); len(folders)+len(left) > 0 {
		t.Errorf("left behind: %v, %v", folders, left)
	}
}

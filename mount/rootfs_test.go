package mount_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/imagecache/imagecache/mount"
)

func TestARootfsForPeople(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		r := newRoom(t, kind)
		r.shelf.put(t, "app", threeLayers...)
		for _, writable := range []bool{false, true} {
			wish := mount.Wish{Key: "/mnt/app", Ref: "app", Writable: writable}
			got, err := r.Acquire(t.Context(), wish)
			if err != nil {
				t.Fatal(err)
			}
			if got.Ref != "app" || got.Platform != "linux/amd64" || string(got.Config) != `{"os":"linux"}` || got.Bytes == 0 || (got.Upper != "") != writable {
				t.Errorf("%+v", got)
			}
			within(t, got.Mounts, func(dir string) {
				err := os.WriteFile(filepath.Join(dir, "written"), []byte("by me"), 0o644)
				if (err == nil) != writable {
					t.Errorf("writable %v, and a write gives %v", writable, err)
				}
			})
			if _, err := r.Acquire(t.Context(), wish); !errors.Is(err, mount.ErrRootfsExists) {
				t.Errorf("a second one: %v", err)
			}
			r = checkRestarted(t, r, writable)
			if err := r.ReleaseRootfs("/mnt/app"); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Acquired(t.Context(), "/mnt/app"); !errors.Is(err, mount.ErrNoRootfs) {
				t.Errorf("after its release: %v", err)
			}
		}
		if err := r.ReleaseRootfs("/mnt/app"); !errors.Is(err, mount.ErrNoRootfs) {
			t.Errorf("a second release: %v", err)
		}
		r.forms.Idle(1 << 40)
		if held := r.forms.Stats().InUse; held != 0 {
			t.Errorf("%d forms are in use still", held)
		}
		checkTidy(t, r)
	})
}

// checkRestarted starts the daemon anew, as after a boot, and finds the root
// filesystem as it was, though space was wanted.
func checkRestarted(t *testing.T, r *room, writable bool) *room {
	t.Helper()
	r.stop()
	r = r.again()
	r.forms.Idle(1 << 40)
	list, err := r.ListRootfs()
	if err != nil || len(list) != 1 || list[0].Key != "/mnt/app" || list[0].Mounts != nil {
		t.Fatalf("listed %+v, %v", list, err)
	}
	again, err := r.Acquired(t.Context(), "/mnt/app")
	if err != nil {
		t.Fatal(err)
	}
	if see(t, again.Mounts, "etc/name") != "two" || writable && see(t, again.Mounts, "written") != "by me" {
		t.Error("after a restart it is another")
	}
	if r.Status().Mended != 0 {
		t.Error("its layers went when space was wanted, and had to be made again")
	}
	if used, err := r.RootfsUsage(t.Context(), "/mnt/app"); err != nil || writable != (used > 4<<10) {
		t.Errorf("writable %v, and %d bytes were written, %v", writable, used, err)
	}
	return r
}

func TestARootfsThatCannotBeMadeLeavesNothing(t *testing.T) {
	r := newRoom(t, kinds[0])
	r.shelf.put(t, "app", threeLayers...)
	r.shelf.set(func() { r.shelf.fail = errors.New("upstream is away") })
	if _, err := r.Acquire(t.Context(), mount.Wish{Key: "a", Ref: "app"}); err == nil {
		t.Fatal("it was made")
	}
	if _, err := r.Acquire(t.Context(), mount.Wish{Key: "a", Ref: "nobody's"}); err == nil {
		t.Fatal("it was made")
	}
	if _, err := r.Acquire(t.Context(), mount.Wish{Ref: "app"}); err == nil {
		t.Fatal("it was made without a name")
	}
	if got := names(t, r.root, "rootfs"); len(got) != 0 || r.forms.Stats().InUse != 0 {
		t.Errorf("left behind: %v, %d forms in use", got, r.forms.Stats().InUse)
	}
}

func TestManyAskForOneRootfs(t *testing.T) {
	r := newRoom(t, kinds[0])
	r.shelf.put(t, "app", threeLayers...)
	var made, refused int
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			_, err := r.Acquire(t.Context(), mount.Wish{Key: "a", Ref: "app", Writable: true})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				made++
			case errors.Is(err, mount.ErrRootfsExists):
				refused++
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if made != 1 || refused != 19 {
		t.Errorf("made %d, refused %d", made, refused)
	}
	if got, err := r.Acquired(t.Context(), "a"); err != nil || see(t, got.Mounts, "top") != "three" {
		t.Errorf("the one that was made: %v", err)
	}
}

// An image without layers, as FROM scratch makes them, has a root filesystem too.
func TestARootfsOfNothing(t *testing.T) {
	r := newRoom(t, kinds[0])
	r.shelf.put(t, "scratch")
	for key, writable := range map[string]bool{"read": false, "write": true} {
		got, err := r.Acquire(t.Context(), mount.Wish{Key: key, Ref: "scratch", Writable: writable})
		if err != nil {
			t.Fatal(err)
		}
		within(t, got.Mounts, func(dir string) {
			if err := os.WriteFile(filepath.Join(dir, "a"), nil, 0o644); (err == nil) != writable {
				t.Errorf("writable %v, and a write gives %v", writable, err)
			}
		})
	}
}

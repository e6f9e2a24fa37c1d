package erofs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/mount/erofs"
)

// ways are all in which this machine mounts.
func ways(t *testing.T) map[string]erofs.Support {
	t.Helper()
	s := needMounts(t)
	all := map[string]erofs.Support{string(s.Way): s}
	if loop := erofs.ProbeOnly(filepath.Join(t.TempDir(), "probe"), erofs.ThroughLoop); loop.Way != erofs.None {
		all[string(loop.Way)] = loop
	} else {
		t.Log("NOT TRIED through loop devices: ", loop)
	}
	return all
}

// sample is a layer with one file, in a folder of its own beside a place to mount it.
func sample(t *testing.T, text string) (file, target string) {
	t.Helper()
	dir := t.TempDir()
	im := newImage(t, filepath.Join(dir, "layer.erofs"))
	im.add("file", im.regular(text))
	im.finish()
	target = filepath.Join(dir, "target")
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := erofs.UnmountBelow(dir); err != nil {
			t.Error(err)
		}
		nothingLeft(t, dir)
	})
	return im.file, target
}

func fileSays(t *testing.T, dir, want string) {
	t.Helper()
	if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(got) != want {
		t.Fatalf("%q, want %q (%v)", got, want, err)
	}
}

func TestMountingTwiceIsMountingOnce(t *testing.T) {
	for name, support := range ways(t) {
		t.Run(name, func(t *testing.T) {
			file, target := sample(t, "text")
			for range 3 {
				if err := erofs.Mount(file, target, support); err != nil {
					t.Fatal(err)
				}
				fileSays(t, target, "text")
				if found, err := erofs.Below(target); err != nil || len(found) != 1 || found[0].Type != "erofs" {
					t.Fatal(found, err)
				}
			}
			for range 3 {
				if err := erofs.Unmount(target); err != nil {
					t.Fatal(err)
				}
			}
			nothingLeft(t, target)
		})
	}
}

// A daemon that comes back finds its mounts, also through a folder that is a link.
func TestAMountThatStandsIsTakenOver(t *testing.T) {
	for name, support := range ways(t) {
		t.Run(name, func(t *testing.T) {
			file, target := sample(t, "text")
			if err := erofs.Mount(file, target, support); err != nil {
				t.Fatal(err)
			}
			before := mountID(t, target)
			alias := filepath.Join(t.TempDir(), "alias")
			if err := os.Symlink(filepath.Dir(file), alias); err != nil {
				t.Fatal(err)
			}
			if err := erofs.Mount(filepath.Join(alias, filepath.Base(file)), filepath.Join(alias, "target"), support); err != nil {
				t.Fatal(err)
			}
			if after := mountID(t, target); after != before {
				t.Error("it was mounted anew")
			}
		})
	}
}

// fsconfig takes no path of more than 255 bytes; a store may lie deeper.
func TestAFileThatLiesDeep(t *testing.T) {
	for name, support := range ways(t) {
		t.Run(name, func(t *testing.T) {
			file, target := sample(t, "text")
			deep := filepath.Join(filepath.Dir(file), strings.Repeat("d", 150), strings.Repeat("e", 150), "layer.erofs")
			if err := os.MkdirAll(filepath.Dir(deep), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(file, deep); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := erofs.Mount(deep, target, support); err != nil {
					t.Fatal(err)
				}
				fileSays(t, target, "text")
			}
			if found, err := erofs.Below(target); err != nil || len(found) != 1 {
				t.Error(found, err)
			}
		})
	}
}

func mountID(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &st); err != nil {
		t.Fatal(err)
	}
	return st.Mnt_id
}

func TestWhatIsMountedFromElsewhereIsReplaced(t *testing.T) {
	for name, support := range ways(t) {
		t.Run(name, func(t *testing.T) {
			old, target := sample(t, "old")
			file, _ := sample(t, "new")
			for _, first := range []string{old, file} {
				if err := erofs.Mount(first, target, support); err != nil {
					t.Fatal(err)
				}
				if err := unix.Mount("tmpfs", target, "tmpfs", 0, ""); err != nil {
					t.Fatal(err)
				}
				if err := erofs.Mount(file, target, support); err != nil {
					t.Fatal(err)
				}
				fileSays(t, target, "new")
				if found, err := erofs.Below(target); err != nil || len(found) != 1 {
					t.Error(found, err)
				}
				if err := erofs.Unmount(target); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// A container goes on when the layer's own mount goes.
func TestAMountInUseGoesAndWhoUsesItGoesOn(t *testing.T) {
	for name, support := range ways(t) {
		t.Run(name, func(t *testing.T) {
			file, target := sample(t, "text")
			if err := erofs.Mount(file, target, support); err != nil {
				t.Fatal(err)
			}
			open, err := os.Open(filepath.Join(target, "file"))
			if err != nil {
				t.Fatal(err)
			}
			defer open.Close()
			if err := erofs.Unmount(target); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 4)
			if _, err := open.Read(b); err != nil || string(b) != "text" {
				t.Fatal(b, err)
			}
			if found, err := erofs.Below(target); err != nil || len(found) > 0 {
				t.Fatal(found, err)
			}
		})
	}
}

func TestMountsBelowAFolder(t *testing.T) {
	support := needMounts(t)
	file, target := sample(t, "text")
	dir := filepath.Dir(target)
	want := []string{}
	for _, name := range []string{"b", "a b", "new\nline", "c"} {
		at := filepath.Join(dir, name)
		if err := os.Mkdir(at, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := erofs.Mount(file, at, support); err != nil {
			t.Fatal(err)
		}
		want = append(want, at)
	}
	found, err := erofs.Below(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range found {
		got = append(got, m.Target)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if err := erofs.UnmountBelow(dir); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, dir)
}

func TestWhatIsNoEROFSIsNotMounted(t *testing.T) {
	for name, support := range ways(t) {
		t.Run(name, func(t *testing.T) {
			_, target := sample(t, "text")
			other := filepath.Join(filepath.Dir(target), "other")
			if err := os.WriteFile(other, []byte(strings.Repeat("no filesystem", 4096)), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, file := range []string{other, filepath.Join(filepath.Dir(target), "none")} {
				if err := erofs.Mount(file, target, support); err == nil || !strings.Contains(err.Error(), file) {
					t.Error(err)
				}
			}
			nothingLeft(t, filepath.Dir(target))
		})
	}
	file, target := sample(t, "text")
	if err := erofs.Mount(file, target, erofs.Support{Why: "because"}); err == nil || !strings.Contains(err.Error(), "because") {
		t.Error(err)
	}
}

func TestUnmountingNothingIsNoError(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{dir, filepath.Join(dir, "none"), filepath.Join(dir, "file")} {
		if err := erofs.Unmount(name); err != nil {
			t.Error(err)
		}
		if err := erofs.UnmountBelow(name); err != nil {
			t.Error(err)
		}
	}
}

// Each layer takes away the file of the one below it and replaces a folder.
func TestAnOverlayOf127Layers(t *testing.T) {
	for name, support := range ways(t) {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Cleanup(func() { nothingLeft(t, dir) })
			t.Chdir(dir) // relative names are short: mount(2) takes options of one page
			var lower []string
			for i := range 127 {
				mountLayer(t, support, dir, i)
				lower = append([]string{fmt.Sprint(i)}, lower...)
			}
			defer erofs.UnmountBelow(dir) // seen by nothingLeft
			if err := os.Mkdir("all", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("overlay", "all", "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lower, ":")); err != nil {
				t.Fatal(err)
			}
			for folder, want := range map[string]string{"all": "[file 126 folder opaque]", "all/opaque": "[126]"} {
				if got := fmt.Sprint(names(t, folder)); got != want {
					t.Errorf("%s: %s, want %s", folder, got, want)
				}
			}
			if got := names(t, "all/folder"); len(got) != 127 {
				t.Errorf("folder: %s", got)
			}
		})
	}
}

func mountLayer(t *testing.T, support erofs.Support, dir string, i int) {
	t.Helper()
	im := newImage(t, filepath.Join(dir, fmt.Sprint(i, ".erofs")))
	im.add(fmt.Sprint("file ", i), im.regular(fmt.Sprint(i)))
	if i > 0 {
		im.add(fmt.Sprint("file ", i-1), device(unix.S_IFCHR, 0, 0))
	}
	im.add("folder", folder(nil)).Children[fmt.Sprint(i)] = im.regular("")
	im.add("opaque", with(folder(nil), "trusted.overlay.opaque", "y")).Children[fmt.Sprint(i)] = im.regular("")
	im.finish()
	at := filepath.Join(dir, fmt.Sprint(i))
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := erofs.Mount(im.file, at, support); err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

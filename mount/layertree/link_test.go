package layertree_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive"

	"github.com/imagecache/imagecache/mount/layertree"
)

// onMounted unpacks a layer into a mounted overlay, as containerd does where it
// cannot write the upper folder directly, and gives that upper folder.
func onMounted(t *testing.T, dir string, layer []byte, lowers []string) (string, error) {
	t.Helper()
	made := map[string]string{}
	for _, name := range []string{"upper", "work", "merged"} {
		made[name] = mkdir(t, filepath.Join(dir, name))
	}
	m := overlay(lowers)
	m.Options = append(m.Options[1:], "upperdir="+made["upper"], "workdir="+made["work"], "index=off")
	if err := m.Mount(made["merged"]); err != nil {
		t.Fatal(err)
	}
	_, err := archive.Apply(context.Background(), made["merged"], bytes.NewReader(layer))
	if err := mount.UnmountAll(made["merged"], 0); err != nil {
		t.Fatal(err)
	}
	return made["upper"], err
}

// TestHardLinksToFilesBelow compares with the kernel: containerd's overlay
// unpacker refuses such a layer.
func TestHardLinksToFilesBelow(t *testing.T) {
	needOverlay(t)
	middle := []entry{
		folder("etc"), file("etc/group", "another"), empty(".wh.second"), file("odd/inherited", "x"),
		folder("var"), folder("var/log"), empty("var/log/.wh..wh..opq"), file("var/log/four", "4"),
		file("etc/ping", "ping", mode(0o4755), owner(5, 6), xattr("security.capability", capabilityValue), xattr("user.a", "1")),
		newEntry('6', "etc/pipe", 0o600, nil), symlink("etc/link", "ping"),
	}
	cases := map[string][]entry{
		"a file of the base":          {hardlink("l", "usr/lib/libc", mode(0o600), owner(9, 9))},
		"a file of the middle":        {hardlink("l", "etc/group"), hardlink("m", "l")},
		"a file with attributes":      {hardlink("l", "etc/ping", xattr("user.b", "2"))},
		"through a link below":        {hardlink("l", "lib/libc")},
		"to a file of this layer":     {folder("usr"), folder("usr/lib"), file("usr/lib/new", "x"), hardlink("l", "lib/new")},
		"a pipe and a link":           {hardlink("p", "etc/pipe"), hardlink("s", "etc/link")},
		"below a folder that it has":  {folder("usr"), hardlink("usr/l", "usr/lib/libc"), folder("usr/lib", mode(0o711), owner(3, 4)), hardlink("usr/lib/m", "usr/l")},
		"in place":                    {hardlink("etc/group", "etc/passwd")},
		"hidden by a whiteout":        {hardlink("l", "second")},
		"hidden by an opaque folder":  {hardlink("l", "var/log/one")},
		"below what this layer hides": {empty("etc/.wh..wh..opq"), hardlink("l", "etc/passwd")},
		"a folder":                    {hardlink("l", "usr/lib")},
		"itself":                      {hardlink("plain", "plain")},
		"below itself":                {hardlink("etc", "etc/passwd")},
		"nothing":                     {hardlink("l", "usr/nothing")},
		"below a file":                {hardlink("l", "plain/x")},
	}
	for name, entries := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, begin := shortDir(t), time.Now().Add(-time.Minute)
			lowers, err := unpackAll(filepath.Join(dir, "L"), [][]byte{pack(t, base()...), pack(t, middle...)}, byContainerd)
			if err != nil {
				t.Fatal(err)
			}
			layer := pack(t, entries...)
			_, err = unpack(filepath.Join(dir, "alone"), layer, nil)
			if needs := new(layertree.NeedsParentError); !errors.As(err, &needs) {
				t.Fatalf("without its parents: %v", err)
			}
			mkdir(t, filepath.Join(dir, "o"))
			ours, ourError := byUs(filepath.Join(dir, "o"), layer, lowers)
			want, kernelError := onMounted(t, dir, layer, lowers)
			if (ourError == nil) != (kernelError == nil) {
				t.Fatalf("ours: %v\nmounted: %v", ourError, kernelError)
			}
			if ourError != nil {
				t.Logf("refused by both\nours: %v\nmounted: %v", ourError, kernelError)
				return
			}
			compareOn(t, dir, lowers, want, ours, begin)
		})
	}
}

// compareOn compares two folders on top of the same layers.
func compareOn(t *testing.T, dir string, lowers []string, want, ours string, begin time.Time) {
	t.Helper()
	problems, err := mounted(filepath.Join(dir, "m"), append([]string{want}, lowers...), append([]string{ours}, lowers...), begin)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Error(p)
	}
}

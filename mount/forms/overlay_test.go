package forms

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// overlay mounts lower folders, topmost first, as a container has them, read-only where there is one.
func overlay(t *testing.T, lowers ...string) string {
	t.Helper()
	needMounts(t)
	merged, upper, work := t.TempDir(), t.TempDir(), t.TempDir()
	options := "lowerdir=" + strings.Join(lowers, ":") + ",upperdir=" + upper + ",workdir=" + work
	must(t, unix.Mount("overlay", merged, "overlay", 0, options))
	t.Cleanup(func() {
		if err := unix.Unmount(merged, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return merged
}

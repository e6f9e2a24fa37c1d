package erofs

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// seenByOthers refuses a machine on which nobody else would see what we mount in
// dir: this process has a mount namespace of its own, from which nothing goes out.
// A container runtime would find an empty folder then. Process 1 stands for the
// others; where it may not be looked at, nothing is refused.
func seenByOthers(dir string) error {
	theirs, err := mountsOfFirst()
	if err != nil {
		return nil
	}
	ours, err := mountOf(dir)
	if err != nil {
		return err
	}
	// The number of a mount is the namespace's own, a peer group reaches others.
	group := peerGroup(ours)
	seen := func(i *mountinfo.Info) bool { return i.ID == ours.ID || group != "" && peerGroup(i) == group }
	if slices.ContainsFunc(theirs, seen) {
		return nil
	}
	return errors.New("what this process mounts is seen by no other: it has a mount namespace of its own " +
		"(of a systemd unit with PrivateTmp=, PrivateDevices= or Protect…=; of a container whose volume has no bidirectional propagation)")
}

func mountsOfFirst() ([]*mountinfo.Info, error) {
	f, err := os.Open("/proc/1/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return mountinfo.GetMountsFromReader(f, nil)
}

// mountOf is the mount that a folder, which is there, is on.
func mountOf(dir string) (*mountinfo.Info, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	over, err := mountinfo.GetMounts(mountinfo.ParentsFilter(dir))
	if err != nil {
		return nil, err
	}
	if len(over) == 0 {
		return nil, errors.New("/proc/self/mountinfo does not tell on which mount " + dir + " is")
	}
	// Of two at one place the later one is on top.
	slices.Reverse(over)
	return slices.MaxFunc(over, func(a, b *mountinfo.Info) int { return len(a.Mountpoint) - len(b.Mountpoint) }), nil
}

// peerGroup is the group to whose members a mount's own mounts go; "": none.
func peerGroup(i *mountinfo.Info) string {
	for _, option := range strings.Fields(i.Optional) {
		if strings.HasPrefix(option, "shared:") {
			return option
		}
	}
	return ""
}

package erofs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Way is how this machine mounts EROFS files.
type Way string

const (
	// None: not at all.
	None Way = ""
	// FromFile mounts the file itself (Linux 6.12 and later).
	FromFile Way = "file"
	// ThroughLoop mounts a loop device that reads the file.
	ThroughLoop Way = "loop"
)

// Mount mounts the EROFS file at target, a folder, in the way that [Probe] found.
// What is mounted there from this file already, by this process or one before it,
// stays; what is mounted there from another file is unmounted first. The mount is
// read-only, and goes with Unmount alone: not when this process ends. One target
// must not be mounted at by two calls at once.
func Mount(file, target string, s Support) error {
	file, err := filepath.EvalSymlinks(file)
	if err != nil {
		return err
	}
	same, err := alreadyMounted(file, target)
	if same || err != nil {
		return err
	}
	switch s.Way {
	case FromFile:
		return mountSource(file, target)
	case ThroughLoop:
		return mountLoop(file, target)
	}
	return fmt.Errorf("this machine mounts no EROFS files: %s", s.Why)
}

// alreadyMounted tells whether the file, and nothing else, is mounted at target,
// and clears target of anything else.
func alreadyMounted(file, target string) (bool, error) {
	mounted, err := mountinfo.Mounted(target)
	if !mounted || err != nil {
		return false, err
	}
	found, err := Below(target)
	if err != nil {
		return false, err
	}
	if len(found) == 1 && found[0].shows(file) {
		return true, nil
	}
	return false, UnmountBelow(target)
}

// mountLoop mounts through a loop device, which the kernel frees when the mount
// goes, or when this process ends before there is one.
func mountLoop(file, target string) error {
	loop, err := attachLoop(file)
	if err != nil {
		return err
	}
	defer loop.Close()
	if err := mountSource(loop.Name(), target); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// longestSource is the longest text in bytes that fsconfig takes.
const longestSource = 255

// mountSource mounts a file or a block device.
func mountSource(source, target string) error {
	if len(source) > longestSource { // mount(2) takes it, and says less of what is wrong
		if err := unix.Mount(source, target, "erofs", unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("mounting %s as EROFS at %s: %w", source, target, err)
		}
		return nil
	}
	context, err := unix.Fsopen("erofs", unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("this kernel has no EROFS: %w", err)
	} else if err != nil {
		return os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(context)
	mount, err := newMount(context, source)
	if err != nil {
		return fmt.Errorf("mounting %s as EROFS: %w%s", source, err, complaints(context))
	}
	defer unix.Close(mount)
	if err := unix.MoveMount(mount, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mounting %s at %s: %w", source, target, err)
	}
	return nil
}

// newMount gives a mount that is nowhere yet.
func newMount(context int, source string) (mount int, err error) {
	if err := unix.FsconfigSetFlag(context, "ro"); err != nil {
		return -1, err
	}
	if err := unix.FsconfigSetString(context, "source", source); err != nil {
		return -1, err
	}
	if err := unix.FsconfigCreate(context); err != nil {
		return -1, err
	}
	return unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
}

// complaints are what the kernel has to say of a mount that failed.
func complaints(context int) string {
	var said []string
	buffer := make([]byte, 1024)
	for {
		n, err := unix.Read(context, buffer)
		if err != nil || n <= 0 {
			break
		}
		said = append(said, strings.TrimSpace(strings.TrimPrefix(string(buffer[:n]), "e ")))
	}
	if len(said) == 0 {
		return ""
	}
	return " (" + strings.Join(said, "; ") + ")"
}

// Unmount unmounts all that is mounted at target. Where nothing is, or no such
// folder, it does nothing, and takes no rights. What still has files of it open
// keeps them until it closes them.
func Unmount(target string) error {
	for {
		mounted, err := mountinfo.Mounted(target)
		if !mounted && (err == nil || errors.Is(err, fs.ErrNotExist)) {
			return nil
		}
		if err == nil {
			err = unmountTop(target)
		}
		if err != nil {
			return fmt.Errorf("unmounting %s: %w", target, err)
		}
	}
}

// unmountTop unmounts the last of what is mounted at target.
func unmountTop(target string) error {
	err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		return unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	return err
}

// UnmountBelow unmounts all that is mounted at dir and below it.
func UnmountBelow(dir string) error {
	found, err := Below(dir)
	if err != nil {
		return err
	}
	var errs []error
	for i := len(found) - 1; i >= 0; i-- {
		errs = append(errs, Unmount(found[i].Target))
	}
	return errors.Join(errs...)
}

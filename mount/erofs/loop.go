package erofs

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// loopTries bounds how often another program may take the free loop device before
// we do.
const loopTries = 100

// attachLoop gives a loop device that reads file, and that the kernel frees once
// nobody has it open or mounted. The caller closes it.
func attachLoop(file string) (*os.File, error) {
	backing, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer backing.Close()
	for range loopTries {
		loop, err := attachFree(backing)
		if !errors.Is(err, unix.EBUSY) {
			return loop, err
		}
	}
	return nil, fmt.Errorf("no loop device for %s: other programs were faster %d times", file, loopTries)
}

// attachFree attaches the file to a device that was free a moment ago.
func attachFree(backing *os.File) (*os.File, error) {
	name, err := freeLoop()
	if err != nil {
		return nil, err
	}
	loop, err := os.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("a loop device: %w", err)
	}
	config := unix.LoopConfig{Fd: uint32(backing.Fd())}
	config.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR
	copy(config.Info.File_name[:len(config.Info.File_name)-1], backing.Name())
	if err := unix.IoctlLoopConfigure(int(loop.Fd()), &config); err != nil {
		loop.Close()
		return nil, fmt.Errorf("attaching %s to %s: %w", backing.Name(), name, err)
	}
	return loop, nil
}

func freeLoop() (name string, err error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("loop devices: %w", err)
	}
	defer control.Close()
	number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return "", fmt.Errorf("a free loop device: %w", err)
	}
	return fmt.Sprintf("/dev/loop%d", number), nil
}

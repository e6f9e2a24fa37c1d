package registrytest

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// Port gives an address of loopback that is the test's until it ends: whoever
// is told it may listen there, end, and listen again, and while nobody does
// connections are refused. A port that was merely free a moment ago may be
// given to anybody who listens or connects anywhere on the machine.
func Port(t testing.TB) (address string) {
	t.Helper()
	// Bound, and never listening: the kernel chooses such a port for nobody
	// else, and who asks for it by number with SO_REUSEADDR, as net.Listen
	// does, gets it.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", bound.(*unix.SockaddrInet4).Port)
}

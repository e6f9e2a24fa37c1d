package mount_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// TestMain runs the tests as the daemon runs, with its umask, and fails them
// when one leaves a goroutine behind.
func TestMain(m *testing.M) {
	unix.Umask(0o077)
	if len(os.Args) == 4 && os.Args[1] == victim {
		beVictim(os.Args[2], os.Args[3])
		return
	}
	goleak.VerifyTestMain(m)
}

package erofs

import (
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// What /proc tells of a process is what its first thread sees. That thread does
// not end with a goroutine.
func TestWhatIsDoneApartIsNeverDoneOnTheFirstThread(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: a mount namespace takes root")
	}
	before, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() {
			onSpareThread(func() {
				if unix.Gettid() == unix.Getpid() {
					t.Error("on the first thread")
				}
				if err := ownNamespace(); err != nil {
					t.Error(err)
				}
			})
		})
	}
	group.Wait()
	if after, err := os.Readlink("/proc/self/ns/mnt"); err != nil || after != before {
		t.Errorf("the process was in %s, is in %s: %v", before, after, err)
	}
}

//go:build e2e

package e2e

import (
	"testing"
	"time"
)

// patience is how long a test waits for what must come. It is long because it is met only by a failure, on the slowest machine.
const patience = 60 * time.Second

// eventually calls check until it returns nil, and ends the test with its last error when patience is over.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: still not so after %v: %v", what, patience, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// await takes n signals from a channel, or ends the test.
func await(t *testing.T, signals <-chan struct{}, n int) {
	t.Helper()
	deadline := time.After(patience)
	for i := range n {
		select {
		case <-signals:
		case <-deadline:
			t.Fatalf("%d of %d signals came in %v", i, n, patience)
		}
	}
}

package layerstore_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// childRoot names the environment variable that makes the test binary a
// process to be killed: it holds the root of the store.
const childRoot = "LAYERSTORE_TEST_CHILD_ROOT"

func TestMain(m *testing.M) {
	if root := os.Getenv(childRoot); root != "" {
		fetchUntilKilled(root)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

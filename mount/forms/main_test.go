package forms

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// childRoot names the environment variable that makes the test binary a process
// that makes forms until it is done, or killed: it holds the root.
const childRoot = "FORMS_TEST_CHILD_ROOT"

func TestMain(m *testing.M) {
	if root := os.Getenv(childRoot); root != "" {
		os.Exit(child(root))
	}
	goleak.VerifyTestMain(m)
}

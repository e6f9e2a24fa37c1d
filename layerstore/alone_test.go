package layerstore_test

import (
	"os"
	"os/exec"
	"testing"
)

// aloneIn names the environment variable that tells a process of the test
// binary which test it runs alone.
const aloneIn = "LAYERSTORE_TEST_ALONE"

// alone runs a test in a process of its own, whose limits it may change.
func alone(t *testing.T, work func(t *testing.T)) {
	t.Helper()
	if os.Getenv(aloneIn) == t.Name() {
		work(t)
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), aloneIn+"="+t.Name())
	if out, err := child.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

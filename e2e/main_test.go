//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(clientProcessURL); url != "" {
		runClientProcess(url)
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if err := checkPrograms(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	var err error
	if scratch, err = os.MkdirTemp("", "ic-"); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(scratch)
	return m.Run()
}

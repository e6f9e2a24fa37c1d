package main

import (
	"fmt"
	"net"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	testscript.Main(leakless{m}, map[string]func(){"imagecache": main})
}

// leakless is tests after which no goroutine may be left.
type leakless struct{ *testing.M }

func (m leakless) Run() int {
	code := m.M.Run()
	if code != 0 {
		return code
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// The story of the command line, one script a chapter: testdata/script.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"status": wantStatus, "busyport": busyPort, "upstream": upstream(t)},
		Setup: func(env *testscript.Env) error {
			// A socket's path is short, and the work folder of a script may not be.
			env.Setenv("RUN", ownFolder(t))
			// The machine that tests may have a daemon and settings of its own.
			env.Setenv("IMAGECACHE_ADMIN", "unix://"+env.Getenv("RUN")+"/s")
			return os.WriteFile(env.WorkDir+"/empty.toml", nil, 0o600)
		},
	})
}

// wantStatus runs a program and wants exactly that exit status: "status 2 imagecache pin".
func wantStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status CODE PROGRAM [ARGUMENT…]")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := "0"
	if exited, failed := err.(interface{ ExitCode() int }); failed {
		code = string(rune('0' + exited.ExitCode()))
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if code != args[0] {
		ts.Fatalf("%v: exit status %s, want %s", args[1:], code, args[0])
	}
}

// busyPort listens on a port of this machine until the script ends, and puts its address into BUSY.
func busyPort(ts *testscript.TestScript, _ bool, _ []string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = listener.Close() })
	ts.Setenv("BUSY", listener.Addr().String())
}

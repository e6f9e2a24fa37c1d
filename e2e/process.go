//go:build e2e

package e2e

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// process is a program that runs beside the test. What it writes is kept in a file, and shown when the test fails.
type process struct {
	cmd  *exec.Cmd
	log  string        // path of what it wrote to standard output and standard error
	done chan struct{} // closed when the process has ended
}

// start starts cmd; the end of the test ends it.
func start(t *testing.T, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, log: filepath.Join(t.TempDir(), name+".log"), done: make(chan struct{})}
	out, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	// A test binary that is killed takes its programs with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	go func() {
		_ = cmd.Wait() // how it ended is in cmd.ProcessState
		close(p.done)
	}()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("the last words of %s:\n%s", name, p.tail())
		}
	})
	return p
}

// stop asks the process to end, and ends it when it does not.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(patience):
		p.kill()
	}
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// ended tells whether the process has ended.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// tail gives the end of what the process wrote: 16 KB are a few hundred lines.
func (p *process) tail() []byte {
	const limit = 16 << 10
	all, err := os.ReadFile(p.log)
	if err != nil {
		return []byte(err.Error())
	}
	if len(all) <= limit {
		return all
	}
	all = all[len(all)-limit:]
	return all[bytes.IndexByte(all, '\n')+1:]
}

// freeAddress gives a loopback address that is the test's. A program that must keep its address over a restart cannot let the kernel
// choose one.
func freeAddress(t *testing.T) string {
	t.Helper()
	return registrytest.Port(t)
}

// cmdAgain is the command of a process that has ended, to be started again.
func (p *process) cmdAgain() *exec.Cmd {
	return &exec.Cmd{Path: p.cmd.Path, Args: p.cmd.Args, Env: p.cmd.Env, Dir: p.cmd.Dir}
}

// dial reports whether somebody listens on an address.
func dial(address string) error {
	connection, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	return connection.Close()
}

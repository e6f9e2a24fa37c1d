//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// traced is a program that is killed, by kill -9, right before a call that would change something below a folder: the Nth of them,
// counted over all its threads, which strace cannot do.
type traced struct {
	pid    int
	folder string
	left   atomic.Int64 // calls until the kill; not positive: they are not counted
	count  atomic.Int64 // calls since it was armed
	armed  atomic.Bool
	killed atomic.Bool
	log    string
	done   chan struct{} // closed when it has ended
}

// startTraced starts cmd. The end of the test ends it.
func startTraced(t *testing.T, cmd *exec.Cmd, folder string, at int64) *traced {
	t.Helper()
	p := &traced{folder: folder, log: filepath.Join(t.TempDir(), "log"), done: make(chan struct{})}
	if at > 0 {
		p.arm(at)
	}
	out, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Setpgid: true}
	started := make(chan error)
	go func() {
		// Only the thread that started it may trace it. Afterwards the thread goes back: one that ends has the kernel
		// kill what it started before (Pdeathsig), which may be other tests' daemons.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.start(cmd)
		started <- err
		if err == nil {
			p.trace()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		t.Fatalf("tracing %s: %v", cmd.Path, err)
	}
	t.Cleanup(func() {
		_ = unix.Kill(p.pid, unix.SIGKILL)
		<-p.done
	})
	return p
}

// arm has the program killed before its at-th call from now on.
func (p *traced) arm(at int64) {
	p.count.Store(0)
	p.left.Store(at)
	p.armed.Store(true)
}

// end asks the program to end and waits for it.
func (p *traced) end() {
	_ = unix.Kill(p.pid, unix.SIGTERM)
	<-p.done
}

func (p *traced) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *traced) start(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	p.pid = cmd.Process.Pid
	if err := cmd.Process.Release(); err != nil { // trace waits for it
		return err
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(p.pid, &status, 0, nil); err != nil {
		return err
	}
	err := unix.PtraceSetOptions(p.pid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_EXITKILL)
	if err != nil {
		return err
	}
	return unix.PtraceSyscall(p.pid, 0)
}

// trace follows all threads from call to call until the last has ended.
func (p *traced) trace() {
	for {
		var status unix.WaitStatus
		// Those of its own group alone: the kernel may give this thread children
		// of others, which others wait for, when the thread that made them ends.
		thread, err := unix.Wait4(-p.pid, &status, unix.WALL|unix.WNOTHREAD, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return // no threads are left
		}
		if !status.Stopped() {
			continue
		}
		deliver := 0
		switch signal := status.StopSignal(); signal {
		case unix.SIGTRAP | 0x80:
			p.call(thread)
		case unix.SIGTRAP, unix.SIGSTOP: // an event; a new thread
		default:
			deliver = int(signal)
		}
		_ = unix.PtraceSyscall(thread, deliver) // unless it was killed meanwhile
	}
}

// syscallInfo is struct ptrace_syscall_info of linux/ptrace.h at the entry of a call.
type syscallInfo struct {
	op     uint8
	_      [3]byte
	_      uint32
	_, _   uint64
	number uint64
	args   [6]uint64
	_      [2]uint64
}

const (
	ptraceGetSyscallInfo = 0x420e
	atEntry              = 1
)

// call counts a call that begins, and kills when it is the one.
func (p *traced) call(thread int) {
	if !p.armed.Load() {
		return
	}
	var info syscallInfo
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, ptraceGetSyscallInfo, uintptr(thread), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 || info.op != atEntry || !p.changes(thread, &info) {
		return
	}
	p.count.Add(1)
	if p.left.Add(-1) == 0 {
		p.killed.Store(true)
		_ = unix.Kill(p.pid, unix.SIGKILL)
	}
}

// changes reports whether a call changes something below the folder.
func (p *traced) changes(thread int, info *syscallInfo) bool {
	switch info.number {
	case unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE:
		path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", thread, int32(info.args[0])))
		return err == nil && p.holds(path)
	case unix.SYS_OPENAT:
		return info.args[2]&(unix.O_CREAT|unix.O_TRUNC) != 0 && p.holds(text(thread, info.args[1]))
	case unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_UNLINKAT, unix.SYS_MKDIRAT, unix.SYS_LINKAT:
		return p.holds(text(thread, info.args[1]))
	}
	return false
}

func (p *traced) holds(path string) bool {
	return strings.HasPrefix(path, p.folder+"/") || path == p.folder
}

// text reads a string of at most one page from a program's memory.
func text(thread int, at uint64) string {
	content := make([]byte, 512)
	n, err := unix.PtracePeekData(thread, uintptr(at), content)
	if err != nil {
		return ""
	}
	before, _, _ := bytes.Cut(content[:n], []byte{0})
	return string(before)
}

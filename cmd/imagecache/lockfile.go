package main

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/imagecache/imagecache/registry"
)

const (
	limitLockfile = 16 << 20 // bytes; a hundred thousand pins
	// lockfilePoll is how often the lockfile is looked at: what deploys it waits for nothing faster, and polling sees every way
	// in which a file can be replaced, also on file systems that tell nobody.
	lockfilePoll = 2 * time.Second
	// lockfileRetry is when a lockfile that could not be made so, because an upstream did not answer say, is tried again.
	lockfileRetry = 30 * time.Second
)

func setLockfile(s *Settings, value string) error {
	if value == "" {
		s.Lockfile = ""
		return nil
	}
	path, err := filepath.Abs(value)
	if err != nil {
		return fmt.Errorf("%q: %w", value, err)
	}
	s.Lockfile = path
	return nil
}

// readLockfile reads a lockfile. Errors name the file, and the line where there is one.
func readLockfile(path string) (registry.Lock, error) {
	content, err := readLimited(path, limitLockfile)
	if err != nil {
		return registry.Lock{}, err
	}
	return parseLockfile(path, content)
}

func parseLockfile(name string, content []byte) (registry.Lock, error) {
	lock, err := registry.ParseLock(content)
	if wrong, ok := err.(*registry.LockError); ok {
		if wrong.Line > 0 {
			return lock, fmt.Errorf("%s:%d: %s", name, wrong.Line, wrong.Message)
		}
		return lock, fmt.Errorf("%s: %s", name, wrong.Message)
	}
	return lock, err
}

// applier makes a lockfile so; *registry.Registry is one.
type applier interface {
	Apply(ctx context.Context, lock registry.Lock, o registry.ApplyOptions) (registry.Applied, error)
}

// lockFollower follows a lockfile: it makes it so whenever it changes, or pins are not as it says any more. One that is missing or broken
// changes nothing.
type lockFollower struct {
	path string
	to   applier
	log  *slog.Logger
	now  func() time.Time

	seen  fileState // what was last read
	retry time.Time // read again then though it has not changed; zero: not

	mu      sync.Mutex // guards what follows
	status  registry.LockfileStatus
	applied *registry.Lock // what was last made so; nil: none
}

// fileState is by what a change of a file is noticed.
type fileState struct {
	modified time.Time
	size     int64
	inode    uint64
	missing  bool
}

func newLockFollower(path string, to applier, log *slog.Logger, now func() time.Time) *lockFollower {
	return &lockFollower{path: path, to: to, log: log, now: now, status: registry.LockfileStatus{Path: path}}
}

// Status tells how it goes.
func (f *lockFollower) Status() *registry.LockfileStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	status := f.status
	status.Differ = f.differ()
	return &status
}

// differ is how many pins are not as what was last made so has them. The caller holds mu.
func (f *lockFollower) differ() int {
	if f.applied == nil {
		return 0
	}
	change, err := f.to.Apply(context.Background(), *f.applied, registry.ApplyOptions{Followed: true, DryRun: true})
	if err != nil {
		f.log.Error("the lockfile not compared with pins", "lockfile", f.path, "error", err)
	}
	return len(change.Changes)
}

// disagree reports whether pins were changed since the lockfile was made so.
func (f *lockFollower) disagree() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status.Error == "" && f.differ() > 0
}

// follow looks at the file until ctx ends.
func (f *lockFollower) follow(ctx context.Context) {
	tick := time.NewTicker(lockfilePoll)
	defer tick.Stop()
	for {
		f.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look reads the file if it changed, if what it says could not be done before, or if it is not so any more.
func (f *lockFollower) look(ctx context.Context) {
	state := stateOf(f.path)
	due := !f.retry.IsZero() && !f.now().Before(f.retry)
	if state == f.seen && !due && !f.disagree() {
		return
	}
	f.seen, f.retry = state, time.Time{}
	lock, err := readLockfile(f.path)
	if err != nil {
		f.failed(err)
		return
	}
	applied, err := f.to.Apply(ctx, lock, registry.ApplyOptions{Followed: true})
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		f.retry = f.now().Add(lockfileRetry)
		f.failed(err)
		return
	}
	f.done(lock, applied)
}

func (f *lockFollower) failed(err error) {
	f.log.Error("the lockfile is not made so, pins stay as they are", "lockfile", f.path, "error", err)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.Error, f.status.ErrorAt = err.Error(), f.now()
}

func (f *lockFollower) done(lock registry.Lock, applied registry.Applied) {
	for _, change := range applied.Changes {
		f.log.Info("the lockfile changes a pin", "action", change.Action, "reference", change.Reference, "from", change.From, "to", change.To)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.Error, f.status.ErrorAt = "", time.Time{}
	f.status.AppliedAt, f.status.Pins = f.now(), len(lock.Pins)
	f.applied = &lock
}

func stateOf(path string) fileState {
	info, err := os.Stat(path)
	if err != nil {
		return fileState{missing: true}
	}
	return fileState{modified: info.ModTime(), size: info.Size(), inode: inodeOf(info)}
}

// inodeOf tells a file that was renamed over another one from that one.
func inodeOf(info fs.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Ino
	}
	return 0
}

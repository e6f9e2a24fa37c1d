package forms

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/mount/erofs"
)

// droppable reports whether a form may go. f.mu is held.
func (f *Forms) droppable(m *form) bool {
	return f.settled && !f.closed && len(m.users) == 0 && !m.making && !m.gone && f.makings[m.row.Key] == nil
}

// drop removes forms that may still go: the rows of all in one transaction,
// files afterwards. It gives the paths to delete, where they are now, and the
// bytes that will be free then.
func (f *Forms) drop(list []*form) (doomed []string, freed int64) {
	taken := f.withdraw(list)
	defer f.withdrawn(taken)
	if len(taken) == 0 {
		return nil, 0
	}
	ids := make([]uint64, len(taken))
	for i, m := range taken {
		ids[i] = m.row.ID // nobody writes the row of a form that is gone
	}
	if err := f.index.drop(ids...); err != nil {
		f.log.Error("forms not removed", "forms", len(taken), "error", err)
		f.restore(taken)
		return nil, 0
	}
	for _, m := range taken {
		doomed = append(doomed, f.vacate(m)...)
		freed += m.row.Bytes
		f.counts.dropped.Add(1)
		f.counts.freed.Add(m.row.Bytes)
	}
	return doomed, freed
}

// withdraw takes those forms out of the tables that may go. Who asks for one
// meanwhile waits until it has left its place.
func (f *Forms) withdraw(list []*form) (taken []*form) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range list {
		if f.droppable(m) {
			f.forget(m)
			f.going[m.row.Key] = make(chan struct{})
			taken = append(taken, m)
		}
	}
	return taken
}

func (f *Forms) withdrawn(taken []*form) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range taken {
		close(f.going[m.row.Key])
		delete(f.going, m.row.Key)
	}
}

func (f *Forms) restore(taken []*form) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range taken {
		m.gone = false
		f.add(m)
	}
}

// vacate renames what is of a form into dropped/.
func (f *Forms) vacate(m *form) (doomed []string) {
	m.place.Lock()
	defer m.place.Unlock()
	if err := erofs.Unmount(f.at.lower(m.row.ID)); err != nil {
		f.log.Warn("form not unmounted", "form", m.row.ID, "error", err)
	}
	for _, path := range kindOf(m.row.Kind).paths(f.at, m.row) {
		doomed = append(doomed, f.moveAway(path)...)
	}
	return doomed
}

// moveAway renames one path into dropped/: its place is free at once, however
// long the deletion takes. It gives where the path is now, nothing when there
// was nothing.
func (f *Forms) moveAway(path string) []string {
	f.mu.Lock()
	f.serial++
	to := filepath.Join(f.at.dropped(), strconv.Itoa(f.serial)+"-"+strconv.FormatInt(time.Now().UnixNano(), 36))
	f.mu.Unlock()
	err := os.Rename(path, to)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		f.log.Error("form not removed: the next start tries again", "path", path, "error", err)
		return nil
	}
	return []string{to}
}

// discard has a folder in making/ deleted.
func (f *Forms) discard(dir string) { f.doom(f.moveAway(dir)...) }

// doom has paths deleted in the background.
func (f *Forms) doom(paths ...string) {
	f.mu.Lock()
	f.doomed = append(f.doomed, paths...)
	f.mu.Unlock()
	f.tidying.raise()
}

const (
	// Between two tries to delete what could not be deleted.
	tidyAgain = 10 * time.Minute
	// Times of use are written this often: no hit waits for it.
	writeUseEvery = 5 * time.Minute
)

// tidy deletes, unmounts and writes times of use, one thing after the other and
// when nobody else wants the disk, until the forms are closed. What it did not
// get to, the next process does.
func (f *Forms) tidy() {
	runtime.LockOSThread() // the thread ends with the goroutine, and its priority with it
	idlePriority()
	use, again := time.NewTicker(writeUseEvery), time.NewTicker(tidyAgain)
	defer use.Stop()
	defer again.Stop()
	var failed []string
	for {
		select {
		case <-f.ctx.Done():
			return
		case <-use.C:
			f.writeUse()
		case <-again.C:
			f.doom(failed...)
			failed = nil
		case <-f.tidying:
			failed = append(failed, f.tidyNow()...)
		}
	}
}

// tidyNow does what there is to do. It gives what could not be deleted.
func (f *Forms) tidyNow() (failed []string) {
	for f.ctx.Err() == nil {
		path, m := f.nextChore()
		switch {
		case m != nil:
			f.unmountUnused(m)
		case path == "":
			return failed
		default:
			err := removeTree(f.ctx, path)
			f.mu.Lock()
			f.deleting--
			f.mu.Unlock()
			if err != nil && f.ctx.Err() == nil {
				f.log.Warn("what is left of a form not deleted", "path", path, "error", err)
				failed = append(failed, path)
			}
		}
	}
	return failed
}

// nextChore is a path to delete or a form to unmount, or neither.
func (f *Forms) nextChore() (path string, m *form) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.unlend); n > 0 {
		m, f.unlend = f.unlend[n-1], f.unlend[:n-1]
		return "", m
	}
	if n := len(f.doomed); n > 0 {
		path, f.doomed = f.doomed[n-1], f.doomed[:n-1]
		f.deleting++
	}
	return path, nil
}

// idlePriority makes the kernel serve this thread's reads when nobody else wants
// the disk (ioprio_set(2)). Schedulers without priorities ignore it.
func idlePriority() {
	const whoThread, classIdle = 1, 3 << 13
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, whoThread, 0, classIdle)
}

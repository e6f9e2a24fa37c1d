package forms

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/imagecache/imagecache/mount/erofs"
	"github.com/imagecache/imagecache/mount/layertree"
)

// install puts what was made in its place and writes its row: files lead and
// rows follow. Between the two it is a folder without a row, which the next
// process removes; under a number that exists already it is one that is not ready.
func (f *Forms) install(j *making, kindName, dir string, bytes int64, tree *layertree.Tree) error {
	m := j.form
	if m == nil {
		m = &form{making: true}
	}
	m.place.Lock()
	defer m.place.Unlock()
	before, after := f.rowsOf(j, m, kindName, bytes, int64(tree.Entries)+1)
	if err := f.clear(before, after, dir); err != nil {
		return err
	}
	aside := filepath.Join(f.at.replaced(), replacedFolder(after.ID, f.o.BootID, f.o.Now()))
	if err := kindOf(kindName).install(f.at, after, dir, aside); err != nil {
		f.undo(after, dir)
		return err
	}
	f.keepOld(m, after.ID, aside)
	f.enter(m, after)
	if err := f.record(after.ID); err != nil {
		f.withoutRow(m, before, err)
		f.undo(after, dir)
		return err
	}
	f.mu.Lock()
	j.form = m
	f.mu.Unlock()
	return nil
}

// rowsOf are the row of a form before it is made and after it.
func (f *Forms) rowsOf(j *making, m *form, kindName string, bytes, inodes int64) (before, after row) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before = m.row
	id := before.ID
	if j.form == nil {
		f.next++
		id = f.next
	}
	after = row{
		ID: id, Key: j.key, DiffID: j.layer().DiffID, Chained: j.chained, Kind: kindName,
		Bytes: bytes, Inodes: inodes, Blobs: before.Blobs, Boot: f.o.BootID, Used: f.o.Now(),
	}
	after.meet(j.blob())
	if j.chained {
		for _, l := range j.image[:len(j.image)-1] {
			after.Below = append(after.Below, below{l.DiffID, l.Blob})
		}
	}
	return before, after
}

// clear makes room for a form that is made again: nothing is mounted in its place
// any more (who has it mounted as a lower folder keeps it), and what was of
// another kind is away.
func (f *Forms) clear(before, after row, dir string) error {
	if before.ID == 0 {
		return nil
	}
	if err := erofs.Unmount(f.at.lower(before.ID)); err != nil {
		return err
	}
	if before.Kind != KindEROFS || after.Kind == KindEROFS && f.at.image(before) == f.at.image(after) {
		return nil
	}
	err := os.Rename(f.at.image(before), filepath.Join(dir, "image"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// enter makes the form known, though not ready: it is being made as long as its
// making is in the tables.
func (f *Forms) enter(m *form, r row) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.removeBlobs(m)
	m.row = r
	m.times++
	f.add(m)
}

// withoutRow takes back what enter did.
func (f *Forms) withoutRow(m *form, before row, why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget(m)
	if before.ID != 0 {
		before.Bad = "its row could not be written: " + why.Error()
		m.row, m.gone = before, false
		f.add(m)
	}
}

// undo takes out of its place what has no row.
func (f *Forms) undo(r row, dir string) {
	for i, path := range kindOf(r.Kind).paths(f.at, r) {
		err := os.Rename(path, filepath.Join(dir, "undone"+strconv.Itoa(i)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.log.Warn("what was unpacked not removed: the next start does", "path", path, "error", err)
		}
	}
}

// keep is a folder that was replaced while somebody ran on it. It goes when all
// have let go of the form who had it then.
type keep struct {
	path  string
	id    uint64
	users []string
}

// keepOld sees to the folder that a new one displaced. Containers that have it as a
// lower folder go on reading it, wherever it is, as long as nobody deletes it.
func (f *Forms) keepOld(m *form, id uint64, aside string) {
	if _, err := os.Lstat(aside); errors.Is(err, fs.ErrNotExist) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keeping = append(f.keeping, keep{aside, id, m.sortedUsers()})
	f.releaseKept()
}

// releaseKept lets folders go that were replaced, and whose users have all left.
// f.mu is held.
func (f *Forms) releaseKept() {
	f.keeping = slices.DeleteFunc(f.keeping, func(k keep) bool {
		if !f.settled || slices.ContainsFunc(k.users, func(u string) bool { return f.users[u][k.id] }) {
			return false
		}
		f.doomed = append(f.doomed, k.path)
		f.tidying.raise()
		return true
	})
}

// replacedFolder tells in its name what the next process must know. No mount
// outlives a boot.
func replacedFolder(id uint64, boot string, now time.Time) string {
	return lowerName(id) + "." + boot + "." + strconv.FormatInt(now.UnixNano(), 10)
}

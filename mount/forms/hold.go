package forms

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/mount/erofs"
)

// Hold keeps a form from being removed, for a user: any name that is unique among
// snapshots, mounts and the like. Holding twice is holding once. Holds are in
// memory: see [Forms.Rehold]. Error: [ErrNotFound].
func (f *Forms) Hold(id uint64, user string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.forms[id]
	if m == nil {
		return fmt.Errorf("form %d: %w", id, ErrNotFound)
	}
	f.hold(m, user)
	return nil
}

// hold does what Hold says; nothing for nobody. It reports whether it is new that
// the user holds the form. f.mu is held.
func (f *Forms) hold(m *form, user string) bool {
	if user == "" || m.users[user] {
		return false
	}
	if m.users == nil {
		m.users = map[string]bool{}
	}
	m.users[user] = true
	f.noteUser(user, m.row.ID)
	return true
}

func (f *Forms) noteUser(user string, id uint64) {
	if f.users[user] == nil {
		f.users[user] = map[uint64]bool{}
	}
	f.users[user][id] = true
}

// Release ends all holds of a user.
func (f *Forms) Release(user string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := range f.users[user] {
		if m := f.forms[id]; m != nil {
			f.letGo(m, user)
		}
	}
	delete(f.users, user)
	f.releaseKept()
}

// unhold ends one hold of a user.
func (f *Forms) unhold(id uint64, user string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.users[user], id)
	if m := f.forms[id]; m != nil {
		f.letGo(m, user)
	}
}

// letGo has a form unmounted that nobody uses any more. f.mu is held.
func (f *Forms) letGo(m *form, user string) {
	held := len(m.users) > 0
	if delete(m.users, user); held && len(m.users) == 0 && m.row.Kind == KindEROFS {
		f.unlend = append(f.unlend, m)
		f.tidying.raise()
	}
}

// Rehold is called once after Open, with all forms that snapshots and mounts of
// earlier processes use, by user. From then on what is not held may be removed. It
// returns the numbers for which there is no form.
func (f *Forms) Rehold(users map[string][]uint64) (missing []uint64) {
	f.mu.Lock()
	for user, ids := range users {
		for _, id := range ids {
			f.noteUser(user, id)
			if m := f.forms[id]; m != nil {
				f.hold(m, user)
			} else {
				missing = append(missing, id)
				f.next = max(f.next, id)
			}
		}
	}
	f.settled = true
	for i, k := range f.keeping { // whoever holds the form now may have the old folder
		if m := f.forms[k.id]; m != nil {
			f.keeping[i].users = m.sortedUsers()
		}
	}
	f.releaseKept()
	orphans := f.orphans
	f.orphans = nil
	slices.Sort(missing)
	missing = slices.Compact(missing)
	if !f.closed {
		f.work.Go(func() { f.reconcile(orphans, missing) })
	}
	f.mu.Unlock()
	return missing
}

// Lower is the folder to give overlay as lower, or to bind read-only. The form
// must be held. An EROFS form is mounted when it is not yet; one that a power cut
// may have damaged, or that has rotted, is made again first, which Options.Blob
// must give the bytes for. Errors: [ErrNotFound], *[MakeError], those of mounting.
func (f *Forms) Lower(ctx context.Context, id uint64) (string, error) {
	for {
		m, times, ready, err := f.lent(id)
		if err != nil {
			return "", err
		}
		if ready && f.look(m, id, times) {
			return f.lend(m)
		}
		if err := f.again(ctx, m); err != nil {
			return "", fmt.Errorf("form %d: %w", id, err)
		}
	}
}

// lent looks up a form that is to be lent.
func (f *Forms) lent(id uint64) (m *form, times int, ready bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch m = f.forms[id]; {
	case f.closed:
		return nil, 0, false, ErrClosed
	case m == nil:
		return nil, 0, false, fmt.Errorf("form %d: %w", id, ErrNotFound)
	case len(m.users) == 0:
		return nil, 0, false, fmt.Errorf("form %d is held by nobody: it may go at any time", id)
	}
	return m, m.times, !m.making && f.ready(m), nil
}

// lend gives the folder of a form that is in its place.
func (f *Forms) lend(m *form) (string, error) {
	m.place.Lock()
	defer m.place.Unlock()
	f.mu.Lock()
	r := m.row
	f.mu.Unlock()
	lower := f.at.lower(r.ID)
	if r.Kind != KindEROFS || isMounted(lower) {
		return lower, nil
	}
	if err := os.Mkdir(lower, folderMode); err != nil && !os.IsExist(err) {
		return "", err
	}
	return lower, erofs.Mount(f.at.image(r), lower, f.support())
}

// isMounted reports whether something is mounted at a folder.
func isMounted(path string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &st)
	return err == nil && st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// unmountUnused unmounts a form that nobody holds.
func (f *Forms) unmountUnused(m *form) {
	m.place.Lock()
	defer m.place.Unlock()
	f.mu.Lock()
	held, id := len(m.users) > 0 || m.gone, m.row.ID
	f.mu.Unlock()
	if held {
		return
	}
	if err := erofs.Unmount(f.at.lower(id)); err != nil {
		f.log.Warn("form not unmounted", "form", id, "error", err)
	}
}

// leftReplaced reads what replacedFolder wrote: whose folder it was, and whether
// somebody may have it still.
func leftReplaced(name, boot string) (id uint64, inUse bool) {
	first, rest, _ := strings.Cut(name, ".")
	id, ok := numberOf(first)
	return id, ok && strings.HasPrefix(rest, boot+".")
}

// leftovers takes note of what the last process left behind, without looking
// into it.
func (f *Forms) leftovers() {
	for _, name := range names(f.at.layers()) {
		if id, ok := numberOf(name); ok && f.forms[id] == nil {
			f.orphans = append(f.orphans, name)
			f.next = max(f.next, id)
		}
	}
	for _, name := range names(f.at.rows()) {
		if id, ok := numberOf(strings.TrimSuffix(name, ".json")); ok {
			f.next = max(f.next, id)
		}
	}
	f.first = f.next + 1
	for _, name := range names(f.at.making()) {
		f.doomed = append(f.doomed, filepath.Join(f.at.making(), name))
	}
	for _, name := range names(f.at.dropped()) {
		f.doomed = append(f.doomed, filepath.Join(f.at.dropped(), name))
	}
	for _, name := range names(f.at.replaced()) {
		path := filepath.Join(f.at.replaced(), name)
		if id, inUse := leftReplaced(name, f.o.BootID); inUse {
			f.keeping = append(f.keeping, keep{path: path, id: id})
		} else {
			f.doomed = append(f.doomed, path)
		}
	}
}

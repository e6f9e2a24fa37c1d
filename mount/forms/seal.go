package forms

import (
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// sealAgain is when a sync that failed is tried again, or a digest that could not be had.
const sealAgain = time.Minute

// sealing makes forms durable, and then reads them once for their digests, until
// the forms are closed, and then once more. Nobody waits for it: until a form is
// sealed, its row says in which boot of the machine it counts.
func (f *Forms) sealing() {
	tick := time.NewTicker(sealAgain)
	defer tick.Stop()
	// Errors of writing back are told to those who had the file system open
	// when they happened.
	root, err := os.Open(f.at.layers())
	if err != nil {
		f.log.Error("forms cannot be sealed", "error", err)
		return
	}
	defer root.Close()
	digests := newSignal()
	f.work.Go(func() { f.digesting(digests) })
	for {
		f.seal(root)
		digests.raise()
		select {
		case <-f.ctx.Done():
			f.seal(root) // the machine may be going down
			return
		case <-f.seals:
			f.pause(f.o.SealDelay)
		case <-tick.C:
		}
	}
}

// pause waits, unless the forms are closed.
func (f *Forms) pause(delay time.Duration) {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-f.ctx.Done():
	case <-timer.C:
	}
}

// draft is a form as it was when something about it was to be found out.
type draft struct {
	form  *form
	times int
	row   row
}

// drafts are the forms that pick wants.
func (f *Forms) drafts(pick func(*form) bool) (list []draft) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.forms {
		if !m.making && f.ready(m) && pick(m) {
			list = append(list, draft{m, m.times, m.row})
		}
	}
	return list
}

// settleDrafts changes the rows of drafts that still are what they were, and
// writes them in one transaction.
func (f *Forms) settleDrafts(list []draft, change func(*row)) {
	var ids []uint64
	f.mu.Lock()
	for _, d := range list {
		if !d.form.gone && d.form.times == d.times && d.form.row.Bad == "" {
			change(&d.form.row)
			ids = append(ids, d.row.ID)
		}
	}
	f.mu.Unlock()
	if len(ids) == 0 {
		return
	}
	if err := f.record(ids...); err != nil && f.ctx.Err() == nil {
		f.log.Error("sealing of forms not recorded", "forms", len(ids), "error", err)
	}
}

// seal syncs what is not durable yet: EROFS files one by one, all directories by
// one sync of the file system.
func (f *Forms) seal(root *os.File) {
	var folders, sealed []draft
	for _, d := range f.drafts(func(m *form) bool { return m.row.Sealed.IsZero() }) {
		if d.row.Kind == KindDirectory {
			folders = append(folders, d)
			continue
		}
		if err := syncImage(f.at, d.row); err != nil {
			f.unsealed([]draft{d}, err)
			continue
		}
		sealed = append(sealed, d)
	}
	if len(folders) > 0 {
		if err := unix.Syncfs(int(root.Fd())); err != nil {
			f.unsealed(folders, os.NewSyscallError("syncfs", err))
			folders = nil
		}
	}
	now := f.o.Now()
	f.settleDrafts(append(sealed, folders...), func(r *row) { r.Sealed = now })
}

// unsealed takes forms for damaged that the disk would not keep: pages whose
// writing failed are forgotten by the kernel, which tells of it once.
func (f *Forms) unsealed(list []draft, err error) {
	spoiled := 0
	for _, d := range list {
		if f.spoil(d.form, d.times, err) { // else it was removed meanwhile
			spoiled++
		}
	}
	if spoiled > 0 {
		f.counts.sealFailed.Add(1)
		f.log.Error("forms could not be made durable: they are made again when they are wanted", "forms", spoiled, "error", err)
	}
}

// digesting reads forms that are sealed and have no digest yet, when nobody else
// wants the disk.
func (f *Forms) digesting(wanted signal) {
	runtime.LockOSThread() // the thread ends with the goroutine, and its priority with it
	idlePriority()
	for {
		select {
		case <-f.ctx.Done():
			return
		case <-wanted:
		}
		for _, d := range f.drafts(func(m *form) bool { return !m.row.Sealed.IsZero() && m.row.Digest == "" }) {
			f.giveDigest(d)
		}
	}
}

func (f *Forms) giveDigest(d draft) {
	got, err := kindOf(d.row.Kind).measure(f.ctx, f.at, d.row, reading{read: func(int64) error { return nil }})
	if f.ctx.Err() != nil {
		return
	}
	if err != nil {
		if f.spoil(d.form, d.times, err) {
			f.log.Error("form cannot be read and is made again when it is wanted", "form", d.row.ID, "error", err)
		}
		return
	}
	now := f.o.Now()
	f.settleDrafts([]draft{d}, func(r *row) {
		r.Digest, r.Proven = got.digest, now
		r.resize(got)
	})
}

// resize notes what the form takes on the disk, now that this is known.
func (r *row) resize(got measured) {
	r.Bytes = got.bytes
	if got.inodes > 0 {
		r.Inodes = got.inodes
	}
}

package forms

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// The start belongs to those who start their containers.
	scrubFirst = time.Minute
	// How often it is looked in the background for proofs that grew too old.
	scrubEvery = time.Hour
)

// ScrubOptions say what to scrub, and how.
type ScrubOptions struct {
	// Older leaves out forms that were proven within this time; 0: none.
	Older time.Duration
	// Pace is called for every n bytes that were read, and returns when the next may
	// be. An error ends the scrub. nil: as fast as the disk gives them.
	Pace     func(ctx context.Context, n int64) error
	Progress func(ScrubProgress) // may be nil; called by one goroutine at a time, often
}

// ScrubProgress tells how far a scrub is.
type ScrubProgress struct {
	DiffID                digest.Digest // of the form being read
	FormsDone, FormsTotal int
	BytesDone, BytesTotal int64
	Rotten                int
}

// Scrubbed is what a scrub did.
type Scrubbed struct {
	Forms  int      // read, the rotten ones included
	Bytes  int64    // read
	Rotten []Rotten // found now, or earlier and not made again until now
}

// Rotten is a form that was not what was made.
type Rotten struct {
	Form  Form
	Users []string // who held it when it was found: containers that may run on it
	Err   error    // why it was not made again at once; nil when it was
}

// Scrub reads sealed forms and compares them with what was made, the one with the
// oldest proof first, with idle I/O priority. One that differs is made again under
// its number when its blob can be had, else by the next scrub, or when somebody
// asks for it. Containers that run on it go on with what they have. It returns what it did
// also with an error: the cause of ctx, [ErrClosed].
func (f *Forms) Scrub(ctx context.Context, o ScrubOptions) (Scrubbed, error) {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return Scrubbed{}, ErrClosed
	}
	f.work.Add(1)
	f.mu.Unlock()
	defer f.work.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(f.ctx, func() { cancel(ErrClosed) })()
	s := &scrub{forms: f, progress: o.Progress, older: o.Older, pace: o.Pace}
	done := make(chan error)
	go func() {
		// The thread ends with the goroutine, and its priority with it.
		runtime.LockOSThread()
		idlePriority()
		done <- s.run(ctx)
	}()
	err := <-done
	return s.done, err
}

// ScrubAlways scrubs now and then, as o says, until the forms are closed. It is
// called once at most, and returns at once.
func (f *Forms) ScrubAlways(o ScrubOptions) { f.scrubAlways(o, scrubFirst, scrubEvery) }

func (f *Forms) scrubAlways(o ScrubOptions, first, every time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	f.work.Go(func() {
		for f.pause(first); f.ctx.Err() == nil; f.pause(every) {
			done, err := f.Scrub(f.ctx, o)
			switch {
			case f.ctx.Err() != nil:
				return
			case err != nil:
				f.log.Error("scrub of forms ended early", "forms", done.Forms, "error", err)
			case done.Forms > 0:
				f.log.Info("forms scrubbed", "forms", done.Forms, "bytes", done.Bytes, "rotten", len(done.Rotten))
			}
		}
	})
}

// scrub is one pass.
type scrub struct {
	forms    *Forms
	older    time.Duration
	progress func(ScrubProgress)
	pace     func(context.Context, int64) error
	state    ScrubProgress
	done     Scrubbed
}

func (s *scrub) run(ctx context.Context) error {
	spoiled := s.forms.spoiled()
	due := s.due()
	s.state.FormsTotal = len(due)
	for _, d := range due {
		s.state.BytesTotal += d.row.Bytes
	}
	for _, d := range due {
		s.state.DiffID = d.row.DiffID
		before := s.state.BytesDone
		if err := s.form(ctx, d); err != nil {
			return err
		}
		s.state.FormsDone++
		s.state.BytesDone = before + d.row.Bytes // blocks, of which holes and ends were not read
		s.report()
	}
	for _, m := range spoiled {
		if ctx.Err() == nil {
			s.mend(ctx, m)
		}
	}
	return context.Cause(ctx)
}

// due lists the forms to read, the oldest proof first. A proof from the future
// does not count: the clock was wrong then, or is now.
func (s *scrub) due() []draft {
	now := s.forms.o.Now()
	due := s.forms.drafts(func(m *form) bool {
		age := now.Sub(m.row.Proven)
		return m.row.Digest != "" && (age < 0 || age >= s.older)
	})
	slices.SortFunc(due, func(a, b draft) int { return a.row.Proven.Compare(b.row.Proven) })
	return due
}

// spoiled are the forms that are known to be damaged, and wait to be made again.
func (f *Forms) spoiled() (list []*form) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.forms {
		if m.row.Bad != "" && !m.making {
			list = append(list, m)
		}
	}
	return list
}

// form reads one form.
func (s *scrub) form(ctx context.Context, d draft) error {
	f := s.forms
	got, err := kindOf(d.row.Kind).measure(ctx, f.at, d.row, reading{fromDisk: true, read: func(n int64) error { return s.read(ctx, n) }})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.done.Forms++
	if err == nil && got.digest == d.row.Digest {
		now := f.o.Now()
		f.settleDrafts([]draft{d}, func(r *row) { r.Proven = now })
		return nil
	}
	if err == nil {
		err = fmt.Errorf("it hashes to %s, when it was made it did to %s", got.digest, d.row.Digest)
	}
	if !f.spoil(d.form, d.times, err) {
		return nil // it was removed, or made again, meanwhile
	}
	s.rotten(ctx, d, err)
	return nil
}

// rotten tells of a form that was found damaged, and has it made again.
func (s *scrub) rotten(ctx context.Context, d draft, why error) {
	f := s.forms
	f.counts.rotten.Add(1)
	f.mu.Lock()
	users := d.form.sortedUsers()
	f.mu.Unlock()
	f.log.Error("form is rotten", "form", d.row.ID, "layer", d.row.DiffID, "users", users, "damage", why)
	s.mend(ctx, d.form)
}

// mend has a form made again.
func (s *scrub) mend(ctx context.Context, m *form) {
	f := s.forms
	f.mu.Lock()
	if m.gone {
		f.mu.Unlock()
		return
	}
	found := Rotten{Form: m.info(), Users: m.sortedUsers()}
	f.mu.Unlock()
	if found.Err = f.again(ctx, m); found.Err == nil {
		f.log.Info("form made again", "form", found.Form.ID, "layer", found.Form.DiffID)
	} else {
		f.log.Warn("form not made again: it is by a later scrub, or when somebody asks for it", "form", found.Form.ID, "layer", found.Form.DiffID, "error", found.Err)
	}
	s.done.Rotten = append(s.done.Rotten, found)
	s.state.Rotten++
}

// read counts bytes as they come, and waits as the rate says.
func (s *scrub) read(ctx context.Context, n int64) error {
	s.done.Bytes += n
	s.state.BytesDone += n
	s.forms.counts.scrubbed.Add(n)
	s.report()
	if s.pace == nil {
		return context.Cause(ctx)
	}
	return s.pace(ctx, n)
}

func (s *scrub) report() {
	if s.progress != nil {
		s.progress(s.state)
	}
}

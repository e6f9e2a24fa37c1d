package forms

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// ScrubOptions say how to scrub.
type ScrubOptions struct {
	Rate     int64               // bytes a second; 0: what the disk gives
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
	Forms  int   // read, the rotten ones included
	Bytes  int64 // read
	Rotten []Rotten
}

// Rotten is a form that was not what was made.
type Rotten struct {
	Form  Form
	Users []string // who held it when it was found: containers that may run on it
	Err   error    // why it was not made again at once; nil when it was
}

// Scrub reads every sealed form and compares it with what was made, the one
// with the oldest proof first, with idle I/O priority. One that differs is made
// again under its number when its blob can be had, else when somebody asks for
// it. Containers that run on it go on with what they have. It returns what it did
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
	s := &scrub{forms: f, progress: o.Progress, pace: pace{rate: o.Rate, since: time.Now()}}
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

// scrub is one pass.
type scrub struct {
	forms    *Forms
	progress func(ScrubProgress)
	pace     pace
	state    ScrubProgress
	done     Scrubbed
}

func (s *scrub) run(ctx context.Context) error {
	due := s.forms.drafts(func(m *form) bool { return m.row.Digest != "" })
	slices.SortFunc(due, func(a, b draft) int { return a.row.Proven.Compare(b.row.Proven) })
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
	return context.Cause(ctx)
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

// rotten has a form made again.
func (s *scrub) rotten(ctx context.Context, d draft, why error) {
	f := s.forms
	f.counts.rotten.Add(1)
	f.mu.Lock()
	found := Rotten{Form: d.form.info(), Users: d.form.sortedUsers()}
	f.mu.Unlock()
	f.log.Error("form is rotten", "form", d.row.ID, "layer", d.row.DiffID, "users", found.Users, "damage", why)
	if found.Err = f.again(ctx, d.form); found.Err == nil {
		f.log.Info("form made again", "form", d.row.ID, "layer", d.row.DiffID)
	} else {
		f.log.Error("form not made again: it is when somebody asks for it", "form", d.row.ID, "layer", d.row.DiffID, "error", found.Err)
	}
	s.done.Rotten = append(s.done.Rotten, found)
	s.state.Rotten++
}

// read counts bytes as they come, and waits as the rate says.
func (s *scrub) read(ctx context.Context, n int64) error {
	s.done.Bytes += n
	s.state.BytesDone += n
	s.report()
	return s.pace.wait(ctx, n)
}

func (s *scrub) report() {
	if s.progress != nil {
		s.progress(s.state)
	}
}

// pace keeps work at a rate.
type pace struct {
	rate  int64     // bytes a second, 0: unlimited
	since time.Time // from when on bytes were counted
	bytes int64
}

// wait returns when n more bytes are due.
func (p *pace) wait(ctx context.Context, n int64) error {
	if p.rate <= 0 || ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p.bytes += n
	left := time.Until(p.since.Add(time.Duration(float64(p.bytes) / float64(p.rate) * float64(time.Second))))
	if left <= 0 {
		// What a slow disk held up is not made up for by a burst.
		p.since, p.bytes = time.Now(), 0
		return nil
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

package forms

import (
	"context"
	"slices"
	"sync"
)

// places bound how many layers are being made. Who is waited for gets the next
// one that is free, and then the one who came first. Forms.mu guards them.
type places struct {
	free  int
	queue []*making
}

// take waits for a place.
func (f *Forms) take(j *making) error {
	f.mu.Lock()
	if f.places.free > 0 {
		f.places.free--
		f.mu.Unlock()
		return nil
	}
	j.placed = make(chan struct{})
	f.places.queue = append(f.places.queue, j)
	f.mu.Unlock()
	select {
	case <-j.placed:
		return nil
	case <-j.ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.Index(f.places.queue, j)
	if i < 0 { // it got its place meanwhile
		f.places.leave()
		return context.Cause(j.ctx)
	}
	f.places.queue = slices.Delete(f.places.queue, i, i+1)
	return context.Cause(j.ctx)
}

// leave gives a place to the next. f.mu is held.
func (p *places) leave() {
	if len(p.queue) == 0 {
		p.free++
		return
	}
	i := max(slices.IndexFunc(p.queue, func(j *making) bool { return j.waiters > 0 }), 0)
	next := p.queue[i]
	p.queue = slices.Delete(p.queue, i, i+1)
	close(next.placed)
}

// turn is a making's right to use a processor. It gives it back while it waits
// for bytes, so that slow flights do not keep those from going on that have theirs.
type turn struct {
	tokens chan struct{}
	mu     sync.Mutex // guards held: a decompressor may read ahead in a goroutine of its own
	held   bool
}

func (t *turn) take(ctx context.Context) error {
	select {
	case t.tokens <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	t.mu.Lock()
	had := t.held
	t.held = true
	t.mu.Unlock()
	if had {
		<-t.tokens
	}
	return nil
}

func (t *turn) give() {
	t.mu.Lock()
	had := t.held
	t.held = false
	t.mu.Unlock()
	if had {
		<-t.tokens
	}
}

// signal wakes one goroutine, however often it is raised.
type signal chan struct{}

func newSignal() signal { return make(signal, 1) }

func (s signal) raise() {
	select {
	case s <- struct{}{}:
	default:
	}
}

package access

import (
	"context"
	"runtime"
	"sync"
)

// turns bound what guessers can make us compute: as many passwords at once as
// half of the processors, and of one address one. So whoever floods us waits in
// a line of its own, and takes at most one place in that of all.
type turns struct {
	slots chan struct{}

	mu    sync.Mutex // guards what follows
	lanes map[string]*lane
}

// lane is the line of an address. It is there as long as somebody waits in it;
// waiting is guarded by turns.mu.
type lane struct {
	turn    chan struct{}
	waiting int
}

func newTurns() *turns {
	return &turns{slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), lanes: map[string]*lane{}}
}

// line waits until nobody else of an address computes. The error is the cause
// of ctx, where that ends before.
func (t *turns) line(ctx context.Context, address string) (leave func(), err error) {
	l := t.enter(address)
	select {
	case l.turn <- struct{}{}:
		return func() { <-l.turn; t.leave(address, l) }, nil
	case <-ctx.Done():
		t.leave(address, l)
		return nil, context.Cause(ctx)
	}
}

// slot waits for a processor, like line.
func (t *turns) slot(ctx context.Context) (done func(), err error) {
	select {
	case t.slots <- struct{}{}:
		return func() { <-t.slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (t *turns) enter(address string) *lane {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.lanes[address]
	if l == nil {
		l = &lane{turn: make(chan struct{}, 1)}
		t.lanes[address] = l
	}
	l.waiting++
	return l
}

func (t *turns) leave(address string, l *lane) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.waiting--; l.waiting == 0 {
		delete(t.lanes, address)
	}
}

package forms

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/mount/layertree"
)

var (
	errUnwanted = errors.New("nobody waits for it any more")
	// errParented ends a making that learned that it needs the layers below. Who
	// waited asks again: each by the layers that his image has below.
	errParented = errors.New("the layer can only be unpacked on top of those below it")
)

// making is the making of one form, and all who wait for it.
type making struct {
	f       *Forms
	key     key
	image   []Layer // base first; the last one is made
	chained bool    // on top of those below
	again   bool    // the form is there already, and not ready
	serial  int
	ctx     context.Context
	cancel  context.CancelCauseFunc
	done    chan struct{}
	err     error // set before done is closed
	read    atomic.Int64
	moved   atomic.Int64

	// Forms.mu guards what follows.
	form    *form // nil until a new one is made
	waiters int
	ahead   bool // it is wanted also when nobody waits
	working bool // it has its place
	linger  *time.Timer
	placed  chan struct{} // closed when it gets a place
}

func (j *making) layer() Layer           { return j.image[len(j.image)-1] }
func (j *making) blob() specs.Descriptor { return j.layer().Blob }

// user is the name by which a making holds the forms below.
func (j *making) user() string { return "\x00making-" + strconv.Itoa(j.serial) }

// begin starts a making, of a form that is not ready where there is one. f.mu is held.
func (f *Forms) begin(k key, image []Layer, m *form) *making {
	f.serial++
	j := &making{
		f: f, key: k, image: image, chained: f.parented[image[len(image)-1].DiffID], form: m, again: m != nil,
		serial: f.serial, done: make(chan struct{}),
	}
	j.ctx, j.cancel = context.WithCancelCause(f.ctx)
	if m != nil {
		m.making = true
	}
	f.makings[k] = j
	f.work.Go(j.run)
	return j
}

// leave is called by who has waited. A making that nobody waits for goes on for a
// while: who gave up may come again.
func (f *Forms) leave(j *making) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if j.waiters--; j.waiters > 0 || j.ahead || j.linger != nil || f.makings[j.key] != j {
		return
	}
	j.linger = time.AfterFunc(f.o.Linger, func() { f.unwanted(j) })
}

// unwanted ends a making, unless somebody wants it again.
func (f *Forms) unwanted(j *making) {
	f.mu.Lock()
	defer f.mu.Unlock()
	j.linger = nil
	if j.waiters == 0 && !j.ahead {
		j.cancel(errUnwanted)
	}
}

// run makes the form, and tells all who wait.
func (j *making) run() {
	err := j.guarded()
	j.f.Release(j.user())
	j.f.settle(j, err)
	j.cancel(nil)
	close(j.done)
}

// guarded turns a fault of the program into an error: the pull goes on without us.
func (j *making) guarded() (err error) {
	defer func() {
		if p := recover(); p != nil {
			j.f.log.Error("unpacking panicked", "layer", j.layer().DiffID, "panic", p, "stack", string(debug.Stack()))
			err = j.failed(ReasonPanic, fmt.Errorf("panic: %v", p))
		}
	}()
	lowers, err := j.below()
	if err != nil {
		return err
	}
	if err := j.f.take(j); err != nil {
		return j.judge(err, nil)
	}
	defer j.release()
	j.f.mu.Lock()
	j.working = true
	j.f.mu.Unlock()
	return j.make(lowers)
}

func (j *making) release() {
	j.f.mu.Lock()
	j.f.places.leave()
	j.f.mu.Unlock()
}

// below gets the forms of all layers below, where they are needed, and gives
// their lower folders, the topmost first. It takes no place meanwhile: their
// makings need some.
func (j *making) below() ([]string, error) {
	if !j.chained {
		return nil, nil
	}
	n := len(j.image) - 1
	lowers, errs, done := make([]string, n), make([]error, n), make(chan struct{})
	for i := range n {
		go func() {
			defer func() { done <- struct{}{} }()
			form, err := j.f.Get(j.ctx, j.image[:i+1], j.user())
			if err == nil {
				lowers[n-1-i], err = j.f.Lower(j.ctx, form.ID)
			}
			errs[i] = err
		}()
	}
	for range n {
		<-done
	}
	if err := errors.Join(errs...); err != nil {
		return nil, j.judge(err, nil)
	}
	return lowers, nil
}

// make makes the form: twice, where the blob broke, or where EROFS cannot hold it.
func (j *making) make(lowers []string) error {
	kindName := j.f.newKind()
	for brokenBefore, metadata := false, int64(modestMetadata); ; {
		err := j.attempt(kindName, lowers, metadata)
		var failed *MakeError
		var limit *layertree.LimitError
		switch {
		case errors.As(err, &limit) && limit.Limit == modestMetadata:
			metadata = layertree.DefaultMetadata
			select {
			case j.f.large <- struct{}{}:
				defer func() { <-j.f.large }()
			case <-j.ctx.Done():
				return j.judge(context.Cause(j.ctx), nil)
			}
		case errors.As(err, &failed) && failed.Reason == ReasonBlob && !brokenBefore && j.ctx.Err() == nil:
			brokenBefore = true
			j.f.log.Debug("layer broke while it was unpacked, once more", "layer", j.layer().DiffID, "error", err)
		case isUnfit(err) && kindName == KindEROFS:
			kindName = KindDirectory
			j.f.log.Debug("layer is kept as a directory", "layer", j.layer().DiffID, "error", err)
		default:
			return err
		}
		j.read.Store(0)
	}
}

// attempt makes the form once. Whatever happens, its folder goes.
func (j *making) attempt(kindName string, lowers []string, metadata int64) error {
	dir, err := os.MkdirTemp(j.f.at.making(), strconv.Itoa(j.serial)+"-*") // what the last process left may lie there
	if err != nil {
		return j.judge(err, nil)
	}
	defer j.f.discard(dir)
	maker, err := kindOf(kindName).begin(dir)
	if err != nil {
		return j.judge(err, nil)
	}
	defer maker.close()
	u := &unpacking{making: j, turn: &turn{tokens: j.f.turns}}
	tree, err := u.read(maker, lowers, metadata)
	if err != nil {
		return j.judge(err, u)
	}
	defer u.turn.give()
	if err := u.turn.take(j.ctx); err != nil {
		return j.judge(err, u)
	}
	bytes, err := maker.finish(j.ctx, tree)
	if err != nil {
		return j.judge(err, nil)
	}
	j.progress(1)
	return j.judge(j.f.install(j, kindName, dir, bytes, tree), nil)
}

// progress notes that something went on.
func (j *making) progress(n int64) {
	j.moved.Add(n)
	j.f.moves.Add(n)
}

// modestMetadata is the memory in bytes that the names and attributes of a layer may
// take when many are made side by side: it does for 200,000 files. Larger layers
// are read again, one at a time. (The odd byte tells this limit from others.)
const modestMetadata = 64<<20 + 1

// limits are what the layer may take.
func (j *making) limits(metadata int64) layertree.Limits {
	return layertree.Limits{Bytes: min(j.f.o.MaxUnpacked, max(leastUnpacked, unpackedRatio*j.blob().Size)), Metadata: metadata}
}

// settle ends a making: what it learned is noted, and it is one no more.
func (f *Forms) settle(j *making, err error) {
	var needs *layertree.NeedsParentError
	if errors.As(err, &needs) && !j.chained {
		if wrote := f.index.noteParented(j.layer().DiffID); wrote != nil {
			f.log.Error("what a layer needs not recorded", "layer", j.layer().DiffID, "error", wrote)
		}
		err = errParented
	}
	ahead := f.end(j, err)
	if err == nil {
		f.trouble.over()
		f.seals.raise()
		return
	}
	if ahead {
		f.ahead(j.image)
	}
	f.tell(j, err)
}

// end takes a making out of the tables. It reports whether it has to be begun
// anew, by another key, though nobody may wait for it.
func (f *Forms) end(j *making, err error) (ahead bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	j.err = err
	delete(f.makings, j.key)
	if j.form != nil {
		j.form.making = false
	}
	if j.linger != nil {
		j.linger.Stop()
	}
	var failed *MakeError
	switch {
	case err == nil:
		f.counts.made++
		if j.again {
			f.counts.madeAgain++
		}
	case errors.Is(err, errParented):
		f.parented[j.layer().DiffID] = true
		return j.ahead
	case errors.As(err, &failed):
		f.counts.fail(failed.Reason)
		if failed.final() {
			f.refused.add(refusal{j.key, j.blob().Digest}, err, f.o.Now())
		}
	}
	return false
}

// tell logs why a making failed.
func (f *Forms) tell(j *making, err error) {
	var failed *MakeError
	if !errors.As(err, &failed) || failed.Reason == ReasonUnwanted || failed.Reason == ReasonClosed || failed.Reason == ReasonPanic {
		return
	}
	f.trouble.met(failed)
}

// refusal names what is not tried again for a while: it would give the same.
type refusal struct {
	key  key
	blob digest.Digest
}

const (
	// Long enough that the layers of an image that is pulled time and again are not
	// unpacked each time; short, for a limit may be raised, a registry mended.
	refusedFor  = 10 * time.Minute
	refusedMost = 1000
)

type refusedUntil struct {
	err error
	at  time.Time
}

// refusals remember what is not tried again for a while.
type refusals map[refusal]refusedUntil

func (r refusals) find(what refusal, now time.Time) error {
	if found, ok := r[what]; ok && now.Before(found.at) {
		return found.err
	}
	return nil
}

func (r refusals) add(what refusal, err error, now time.Time) {
	if len(r) >= refusedMost {
		clear(r)
	}
	r[what] = refusedUntil{err, now.Add(refusedFor)}
}

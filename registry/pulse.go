package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"
)

const (
	// probeEvery is how often an upstream that hangs is probed: that often, and
	// not oftener, it is noticed to be back.
	probeEvery = 400 * time.Millisecond
	// probeTime bounds one probe, so that some run side by side.
	probeTime = 3 * time.Second
	// probeOn is how long an upstream that hangs is probed when nobody asks for it.
	probeOn = 30 * time.Second
)

// errAwake ends a question that hangs when others are answered again.
var errAwake = errors.New("upstream answers again")

// pulse tells whether somebody whom we ask hangs, or is merely slow. A question
// that waits long for its answer has probes sent beside it, by connections of
// their own, that ask the same and count for nothing. When the first one is
// answered there is nothing to mend: the question takes its time. When they
// are silent too it hangs: those who come later are told so at once, and when a
// probe is answered at last, the questions that hang are asked anew rather than
// waited for. The nil one watches nothing.
type pulse struct {
	life    context.Context // probes end with it
	after   time.Duration   // a question that has waited for so long is looked at
	hungAt  time.Duration   // and after so long without any answer, it hangs
	revived func()          // called when what hung answers again; may be nil
	tasks   sync.WaitGroup

	mu      sync.Mutex // guards what follows
	waiting map[*waiter]struct{}
	probing bool
	silent  bool      // it hangs
	blamed  string    // what the last probe failed for, where it was not upstream: "docker-credential-x does not answer"
	wanted  time.Time // somebody last asked whether it does
}

// waiter is a question that has no answer yet.
type waiter struct {
	begun time.Time
	end   context.CancelCauseFunc
}

// newPulse watches with regard to what callers are patient for.
func newPulse(life context.Context, patience time.Duration, revived func()) *pulse {
	return &pulse{life: life, after: patience * 7 / 10, hungAt: 3 * patience, revived: revived, waiting: map[*waiter]struct{}{}}
}

// wait returns when the last probe has ended, after the end of life.
func (p *pulse) wait() {
	if p != nil {
		p.tasks.Wait()
	}
}

// hung is the error for those who would wait in vain, nil while upstream
// answers. That they asked keeps it being probed.
func (p *pulse) hung() *Error {
	why := p.silence()
	if why != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.wanted = time.Now()
	}
	return why
}

// silence is hung for those who only want to know.
func (p *pulse) silence() *Error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.silent {
		return nil
	}
	why := p.blamed
	if why == "" {
		why = "upstream accepts questions and does not answer"
	}
	return &Error{Code: CodeTimeout, Message: why + "; it is asked again as soon as it does", RetryAfter: time.Second}
}

// awake does work that waits for an answer, and does it a second time where the
// first one hangs and upstream answers again. What work returns must outlive the
// context it is given only as far as ctx does. probe asks something like it.
func awake[T any](ctx context.Context, p *pulse, probe func(context.Context) error, work func(context.Context) (T, error)) (T, error) {
	watched, end := context.WithCancelCause(ctx)
	answered := p.watch(probe, end)
	got, err := work(watched)
	answered()
	if err != nil && context.Cause(watched) == errAwake {
		return work(ctx)
	}
	if err != nil {
		end(nil)
	}
	return got, err // a body may still be read: watched ends with ctx
}

// watch notes a question. answered is called when it has its answer.
func (p *pulse) watch(probe func(context.Context) error, end context.CancelCauseFunc) (answered func()) {
	w := &waiter{begun: time.Now(), end: end}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting[w] = struct{}{}
	late := time.AfterFunc(p.after, func() { p.look(probe) })
	return func() {
		late.Stop()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.waiting, w)
	}
}

// look begins to probe, unless that is done already.
func (p *pulse) look(probe func(context.Context) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.probing || p.life.Err() != nil {
		return
	}
	p.probing, p.wanted, p.blamed = true, time.Now(), ""
	p.tasks.Go(func() { p.probe(probe) })
}

// probe probes until there is an answer, or nobody who waits for one.
func (p *pulse) probe(probe func(context.Context) error) {
	ctx, cancel := context.WithCancel(p.life)
	var probes sync.WaitGroup
	defer probes.Wait()
	defer cancel()
	answers := make(chan time.Time)
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for begun := time.Now(); ; {
		probes.Go(func() { p.sendProbe(ctx, probe, answers) })
		select {
		case sent := <-answers:
			p.rise(sent, time.Since(begun) > probeEvery*2)
			return
		case <-tick.C:
		case <-ctx.Done():
		}
		if ctx.Err() != nil || !p.goOn(begun) {
			return
		}
	}
}

func (p *pulse) sendProbe(ctx context.Context, probe func(context.Context) error, answers chan<- time.Time) {
	sent := time.Now()
	short, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	if err := probe(short); err != nil {
		p.blame(err)
		return
	}
	select {
	case answers <- sent:
	case <-ctx.Done():
	}
}

// blame notes who kept a probe waiting.
func (p *pulse) blame(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blamed = ""
	if e := (*Error)(nil); errors.As(err, &e) && e.Code == CodeTimeout {
		p.blamed = e.Message
	}
}

// goOn reports whether anybody waits who would be glad of an answer.
func (p *pulse) goOn(begun time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(begun) > p.hungAt-p.after {
		p.silent = true
	}
	old := false
	for w := range p.waiting {
		old = old || time.Since(w.begun) >= p.after
	}
	if old || p.silent && time.Since(p.wanted) < probeOn {
		return true
	}
	p.probing, p.silent = false, false
	return false
}

// rise ends the probing: the probe sent at that time was answered. hung says
// that others had not been. Then questions that have waited for much longer than
// the probe did hang, and are asked anew.
func (p *pulse) rise(sent time.Time, hung bool) {
	took := time.Since(sent)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.probing, p.silent = false, false
	if !hung {
		return
	}
	if p.revived != nil {
		p.revived()
	}
	for w := range p.waiting {
		if time.Since(w.begun) > p.after/2+2*took {
			w.end(errAwake)
		}
	}
}

// probe asks by HEAD for what a question is about. Any answer will do.
func (u *upstream) probe(ctx context.Context, q question) error {
	q.method = http.MethodHead
	res, err := u.send(withWay(ctx, u.wayTo(q)), u.prober, q)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// nowhere is for those who want to know whether somebody answers, not what.
func nowhere(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// knock asks for an address without a credential. Any answer will do.
func knock(ctx context.Context, by http.RoundTripper, at *url.URL, userAgent string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", userAgent)
	res, err := by.RoundTrip(req)
	if err != nil {
		return err
	}
	_, _ = io.CopyN(io.Discard, res.Body, maxComplaint)
	return res.Body.Close()
}

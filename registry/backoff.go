package registry

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	firstRest = 2 * time.Second  // after a first failure: long enough to answer a pull's burst from what is here
	longRest  = 30 * time.Second // an upstream that came back should be noticed within the time a person waits

	defaultLimit = 10 * time.Second // after a 429 without Retry-After
	shortLimit   = time.Second
	longLimit    = 10 * time.Minute // a Retry-After of hours is more likely wrong than meant
)

// outage remembers that an upstream fails, so that callers who have something
// to answer with do not wait for it. It is shared by all who ask that upstream.
type outage struct {
	now    func() time.Time
	random func() float64 // [0, 1)

	mu    sync.Mutex // guards what follows
	steps int        // rests in a row
	until time.Time
	why   *Error
}

// failed begins a rest, longer each time. Failures while resting are those of
// requests that were under way together, and make it no longer.
func (o *outage) failed(why *Error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.now()
	if now.Before(o.until) {
		return
	}
	rest := min(firstRest<<min(o.steps, 8), longRest)
	o.steps++
	// ±20 % keeps a fleet that lost its upstream at one instant from coming back at one.
	rest = time.Duration(float64(rest) * (0.8 + 0.4*o.random()))
	o.until, o.why = now.Add(max(rest, min(why.RetryAfter, longRest))), why
}

func (o *outage) over() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.steps, o.until, o.why = 0, time.Time{}, nil
}

func (o *outage) resting() (time.Time, *Error, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.until, o.why, o.now().Before(o.until)
}

// limit remembers a 429 of an upstream. Each credential has its own: the
// quota of an address is not that of an account.
type limit struct {
	now func() time.Time

	mu    sync.Mutex // guards what follows
	about subject    // what was limited: Docker Hub limits manifests and neither HEAD nor blobs
	since time.Time
	until time.Time
	why   *Error
}

func (l *limit) reached(s subject, why *Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if until := now.Add(why.RetryAfter); until.After(l.until) {
		l.about, l.since, l.until, l.why = s, now, until, why
	}
}

// passed ends the limit when a request of the same kind, begun after the
// limit was met, succeeds.
func (l *limit) passed(s subject, begun time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.about == s && !begun.Before(l.since) {
		l.until, l.why = time.Time{}, nil
	}
}

// resting is as outage's; the error's RetryAfter is what is left.
func (l *limit) resting() (time.Time, *Error, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	left := l.until.Sub(l.now())
	if left <= 0 {
		return time.Time{}, nil, false
	}
	why := *l.why
	why.RetryAfter = left
	return l.until, &why, true
}

// restingFor is resting, for questions of one subject alone.
func (l *limit) restingFor(s subject) *Error {
	_, why, ok := l.resting()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !ok || l.about != s {
		return nil
	}
	return why
}

// retryAfter reads the header of that name (RFC 9110 section 10.2.3: seconds
// or a date). It is 0 when there is none that can be read.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if value == "" {
		return 0
	}
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return min(max(time.Duration(seconds)*time.Second, shortLimit), longLimit)
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), shortLimit), longLimit)
}

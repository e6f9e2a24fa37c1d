package registry

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	firstRest = 2 * time.Second  // after a first failure: long enough to answer a pull's burst from what is here
	longRest  = 30 * time.Second // an upstream that came back should be noticed within the time a person waits

	// A failure that may be one answer's own begins a rest when it is the third
	// in ten seconds, without a success between: a single 500 of one repository
	// shall not make all others stale.
	singlesMost   = 3
	singlesWithin = 10 * time.Second

	defaultLimit = 10 * time.Second // after a 429 without Retry-After
	shortLimit   = time.Second
	longLimit    = 10 * time.Minute // a Retry-After of hours is more likely wrong than meant
)

// outage remembers that an upstream fails, so that callers who have something
// to answer with do not wait for it. It is shared by all who ask that upstream.
type outage struct {
	now    func() time.Time
	random func() float64 // [0, 1)

	mu      sync.Mutex // guards what follows
	steps   int        // rests in a row
	until   time.Time
	why     *Error
	singles []time.Time // failures that began no rest, since the last success
}

// failed begins a rest, longer each time. Failures while resting are those of
// requests that were under way together, and make it no longer.
func (o *outage) failed(why *Error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.now()
	if now.Before(o.until) || o.single(why, now) {
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
	o.steps, o.until, o.why, o.singles = 0, time.Time{}, nil, nil
}

// single reports whether a failure is one to be overlooked. After a rest none
// is, and none that came with a wish to be left alone. o.mu is held.
func (o *outage) single(why *Error, now time.Time) bool {
	if !why.single || why.RetryAfter > 0 || o.steps > 0 {
		return false
	}
	o.singles = slices.DeleteFunc(o.singles, func(at time.Time) bool { return now.Sub(at) >= singlesWithin || at.After(now) })
	o.singles = append(o.singles, now)
	return len(o.singles) < singlesMost
}

func (o *outage) resting() (time.Time, *Error, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.until, o.why, o.now().Before(o.until)
}

// limit remembers the 429s of an upstream, for all who ask it with whatever
// credential: what it counts by is often the address, which is ours for all of
// them, and one who is told to wait is not to be followed by another at once.
type limit struct {
	now func() time.Time

	mu sync.Mutex // guards met
	// met is by what was limited: Docker Hub limits manifests and neither HEAD nor blobs.
	met map[subject]limited
}

type limited struct {
	since, until time.Time
	why          *Error
}

func (l *limit) reached(s subject, why *Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if until := now.Add(why.RetryAfter); until.After(l.met[s].until) {
		if l.met == nil {
			l.met = map[subject]limited{}
		}
		l.met[s] = limited{since: now, until: until, why: why}
	}
}

// passed ends the limit of one kind of request when one of that kind, begun
// after the limit was met, succeeds.
func (l *limit) passed(s subject, begun time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !begun.Before(l.met[s].since) {
		delete(l.met, s)
	}
}

// resting is as outage's, for whatever was limited longest; the error's
// RetryAfter is what is left.
func (l *limit) resting() (time.Time, *Error, bool) {
	return l.longest(func(subject) bool { return true })
}

// restingFor is the error for blobs alone, or for everything else alone: to go
// on with HEAD where manifests are limited is no way to honour it. It is nil
// when there is no limit.
func (l *limit) restingFor(s subject) *Error {
	_, why, _ := l.longest(func(met subject) bool { return (met == subjectBlob) == (s == subjectBlob) })
	return why
}

func (l *limit) longest(about func(subject) bool) (until time.Time, why *Error, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for s, met := range l.met {
		if about(s) && met.until.After(now) && met.until.After(until) {
			until, why = met.until, met.why
		}
	}
	if why == nil {
		return time.Time{}, nil, false
	}
	left := *why
	left.RetryAfter = until.Sub(now)
	return until, &left, true
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

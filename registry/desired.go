package registry

import (
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// A pin that could not be completed is tried again after firstTry, then
	// after twice that, and so on up to lastTry: a registry that is down for a
	// night is not asked thousands of times, and one that came back has its
	// pins complete within minutes.
	firstTry = 5 * time.Second
	lastTry  = 10 * time.Minute
	// lookEvery is how often upstream is asked about a pinned tag, at least:
	// nothing waits for the answer, so it is gentle.
	lookEvery = time.Hour
	// lookTTLs is how many lifetimes of a tag pass between two looks, where that
	// is longer than lookEvery.
	lookTTLs = 10
)

// desired is what is known of pins beside their rows, in this process: what
// became of completing them, and what upstream said of them.
type desired struct {
	random   func() float64    // [0, 1)
	lockfile string            // Options.Lockfile
	claims   map[string]*claim // pins that are not settled, by key; Registry.pinning guards it
	wake     chan struct{}     // one token when a pin should be looked at

	mu      sync.Mutex // guards what follows
	of      map[string]*effort
	inHand  map[string]int  // pins that a caller is fetching now
	busy    map[string]bool // registries whose pins are being completed now
	drill   *Drilled        // what the last drill found; nil: none yet
	drilled time.Time       // when that was
}

func newDesired() *desired {
	return &desired{random: rand.Float64, wake: make(chan struct{}, 1),
		claims: map[string]*claim{},
		of:     map[string]*effort{}, inHand: map[string]int{}, busy: map[string]bool{}}
}

// effort is what became of one pin, at one digest.
type effort struct {
	digest   digest.Digest
	filling  bool      // being fetched now
	failures int       // in a row
	since    time.Time // the first of them
	next     time.Time // tried again then; zero: at once
	why      string    // the last of them
	look     time.Time // upstream is asked about the tag, and for referrers, then
	drift    drift
}

// drift is what upstream last said of a pinned tag.
type drift struct {
	upstream digest.Digest
	at       time.Time // zero: not asked yet
	why      string    // why it is not known
	change   *Change   // from the pin's digest to upstream's, where it was asked for
}

// effortOf gives the effort of a pin to read and change. The caller holds mu.
// A pin that moved begins anew.
func (d *desired) effortOf(key string, at digest.Digest, look time.Time) *effort {
	e := d.of[key]
	if e == nil || e.digest != at {
		e = &effort{digest: at, look: look}
		d.of[key] = e
	}
	return e
}

// soon is a time within the next span, so that all pins are not looked at together.
func (d *desired) soon(now time.Time, span time.Duration) time.Time {
	return now.Add(time.Duration(float64(span) * d.random()))
}

// take marks a pin as in the hands of a caller, who gives it back with done.
func (d *desired) take(key string) (done func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inHand[key]++
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.inHand[key]--; d.inHand[key] <= 0 {
			delete(d.inHand, key)
		}
	}
}

// begun notes that a pin is being fetched.
func (d *desired) begun(key string, at digest.Digest, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.effortOf(key, at, d.soon(now, lookEvery)).filling = true
}

// ended notes what came of fetching a pin, and when to try again.
func (d *desired) ended(key string, at digest.Digest, err error, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.effortOf(key, at, d.soon(now, lookEvery))
	e.filling = false
	if err == nil {
		e.failures, e.why, e.since, e.next = 0, "", time.Time{}, time.Time{}
		e.look = now // for its referrers
		nudge(d.wake)
		return
	}
	if e.failures == 0 {
		e.since = now
	}
	e.failures++
	e.why = err.Error()
	e.next = time.Time{} // once more at once: it may have been a hiccup, or rot that is repaired now
	if e.failures > 1 {
		e.next = now.Add(d.pause(e.failures-1, err))
	}
}

// pause is how long a pin that failed so often is left alone.
func (d *desired) pause(failures int, err error) time.Duration {
	pause := min(firstTry<<min(failures-1, 10), lastTry)
	if e := (*Error)(nil); errors.As(err, &e) {
		pause = max(pause, min(e.RetryAfter, lastTry))
	}
	// ±20 % keeps a fleet that lost its upstream at one instant from coming back at one.
	return time.Duration(float64(pause) * (0.8 + 0.4*d.random()))
}

// forget drops what is known of pins that are no more.
func (d *desired) forget(rows map[string]pinRow) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for key := range d.of {
		if _, ok := rows[key]; !ok {
			delete(d.of, key)
		}
	}
}

// known gives a copy of what is known of a pin.
func (d *desired) known(key string, at digest.Digest) effort {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.of[key]; e != nil && e.digest == at {
		return *e
	}
	return effort{}
}

// arrived notes that a pin is complete, whoever fetched what it lacked. One
// that was complete at the start is looked at within the next hour.
func (d *desired) arrived(key string, at digest.Digest, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.effortOf(key, at, d.soon(now, lookEvery))
	e.failures, e.why, e.since, e.next = 0, "", time.Time{}, time.Time{}
}

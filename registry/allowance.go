package registry

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Allowance is what an upstream said last of the rate limit that we are under,
// as Docker Hub does in RateLimit-Limit and RateLimit-Remaining ("76;w=21600").
type Allowance struct {
	Limit     int64 `json:"limit"`
	Remaining int64 `json:"remaining"`
	Window    int64 `json:"window_seconds,omitempty"`
	// Kept: no more is left than what is kept for what clients wait for and is
	// not cached.
	Kept bool `json:"kept,omitempty"`
}

const (
	// defaultReserve is what of an allowance is kept for what is not cached.
	defaultReserve = 0.1
	// defaultWindow is Docker Hub's, for a limit that does not tell its own.
	defaultWindow = 6 * time.Hour
	// sparedFor is how long those wait who may: what is left is asked for again
	// by whoever has to be answered, and told by every HEAD.
	sparedFor = time.Minute
)

// AllowanceReserve is how much of what an upstream lets us ask is kept for what
// clients wait for and is not cached: a number of requests, or else a part of
// the limit. The zero value is the documented default, a tenth.
type AllowanceReserve struct {
	Set      bool // to what follows, of which both may be 0: nothing is kept
	Requests int64
	Fraction float64 // of the limit, 0 to 1
}

// of is the reserve of a limit, in requests.
func (r AllowanceReserve) of(limit int64) int64 {
	if !r.Set {
		r.Fraction = defaultReserve
	}
	return max(r.Requests, int64(r.Fraction*float64(limit)))
}

// allowance remembers the latest one.
type allowance struct {
	mu    sync.Mutex // guards what follows
	known bool
	now   Allowance
	at    time.Time
}

func (a *allowance) note(h http.Header, now time.Time) {
	remaining, window, ok := rate(h.Get("RateLimit-Remaining"))
	if !ok {
		return
	}
	limit, _, _ := rate(h.Get("RateLimit-Limit"))
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known, a.at, a.now = true, now, Allowance{Limit: limit, Remaining: remaining, Window: window}
}

// scarce reports whether no more is left than a reserve. What was said a window
// ago counts no more: by then all of it is back.
func (a *allowance) scarce(reserve AllowanceReserve, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	window := orElse(time.Duration(a.now.Window)*time.Second, defaultWindow)
	age := now.Sub(a.at)
	keep := reserve.of(a.now.Limit)
	return a.known && age >= 0 && age < window && keep > 0 && a.now.Remaining <= keep
}

// get returns nil where upstream never said anything of a limit.
func (a *allowance) get() *Allowance {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.known {
		return nil
	}
	now := a.now
	return &now
}

// rate reads "76;w=21600": a number, and the window in seconds that it is for.
func rate(value string) (n, window int64, ok bool) {
	number, parameters, _ := strings.Cut(value, ";")
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if err != nil || n < 0 {
		return 0, 0, false
	}
	if w, found := strings.CutPrefix(strings.TrimSpace(parameters), "w="); found {
		if seconds, err := strconv.ParseInt(w, 10, 64); err == nil && seconds > 0 {
			window = seconds
		}
	}
	return n, window, true
}

// noteAllowance notes what an answer says of the rate limit, for those whom it
// is about: a caller's own credential has a limit of its own.
func (u *upstream) noteAllowance(credential bool, h http.Header) {
	switch {
	case !credential:
		u.tally.anybodys.note(h, u.env.now())
	case !u.forCallers:
		u.tally.ours.note(h, u.env.now())
	}
}

// toldAllowance is the one to tell of: that of our credential, else that of
// whoever comes from here.
func (u *upstream) toldAllowance() *Allowance {
	told := u.tally.ours.get()
	if told == nil {
		told = u.tally.anybodys.get()
	}
	if told != nil {
		told.Kept = u.scarce()
	}
	return told
}

// scarce reports whether so little of the allowance is left that it is kept for
// what clients wait for and is not cached.
func (u *upstream) scarce() bool {
	if u.home != nil {
		return false
	}
	a := &u.tally.anybodys
	if !u.forCallers && u.tally.ours.get() != nil {
		a = &u.tally.ours
	}
	return a.scarce(u.options.AllowanceReserve, u.env.now())
}

type sparingKey struct{}

// sparing marks the questions of a view for which nobody waits.
func (v view) sparing(ctx context.Context) context.Context {
	if !v.spare {
		return ctx
	}
	return context.WithValue(ctx, sparingKey{}, true)
}

// spared is the error for a question that counts against a rate limit of which
// too little is left for those who can do without, nil for all others.
func (u *upstream) spared(ctx context.Context) *Error {
	if sparing, _ := ctx.Value(sparingKey{}).(bool); !sparing || !u.scarce() {
		return nil
	}
	left := u.toldAllowance()
	return &Error{Code: CodeTooMany, RetryAfter: sparedFor, Message: fmt.Sprintf(
		"of %d requests that upstream allows %d are left, which are kept for what is not cached (allowance_reserve)", left.Limit, left.Remaining)}
}

package registry

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// Allowance is what an upstream said last of the rate limit that we are under,
// as Docker Hub does in RateLimit-Limit and RateLimit-Remaining ("76;w=21600").
type Allowance struct {
	Limit     int64 `json:"limit"`
	Remaining int64 `json:"remaining"`
	Window    int64 `json:"window_seconds,omitempty"`
}

// allowance remembers the latest one.
type allowance struct {
	mu    sync.Mutex // guards what follows
	known bool
	now   Allowance
}

func (a *allowance) note(h http.Header) {
	remaining, window, ok := rate(h.Get("RateLimit-Remaining"))
	if !ok {
		return
	}
	limit, _, _ := rate(h.Get("RateLimit-Limit"))
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known, a.now = true, Allowance{Limit: limit, Remaining: remaining, Window: window}
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

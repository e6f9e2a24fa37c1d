package access

import (
	"net/http"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// callersMost is how many callers' limits are remembered.
const callersMost = 8192

// limits are what one caller may ask for: so many requests a second, ten times
// as many in a burst, and so many at once. Callers that are not known are told
// apart by their addresses.
type limits struct {
	rate   int // 0: no limit
	atOnce int // 0: no limit
	now    func() time.Time

	mu      sync.Mutex // guards what follows
	callers *lru.Cache[string, *allowed]
}

// allowed is the state of one caller. running is guarded by limits.mu.
type allowed struct {
	rate    *rate.Limiter
	running int
}

func newLimits(perSecond, atOnce int, now func() time.Time) (*limits, error) {
	callers, err := lru.New[string, *allowed](callersMost)
	return &limits{rate: perSecond, atOnce: atOnce, now: now, callers: callers}, err
}

func (l *limits) of(key string) *allowed {
	a, ok := l.callers.Get(key)
	if !ok {
		a = &allowed{rate: rate.NewLimiter(rate.Limit(l.rate), 10*l.rate)}
		l.callers.Add(key, a)
	}
	return a
}

// enter lets a request in, until done is called, or says how long to wait.
func (l *limits) enter(key string) (done func(), wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of(key)
	if l.atOnce > 0 && a.running >= l.atOnce {
		return nil, time.Second
	}
	if l.rate > 0 {
		r := a.rate.ReserveN(l.now(), 1)
		if delay := r.DelayFrom(l.now()); delay > 0 {
			r.CancelAt(l.now())
			return nil, delay
		}
	}
	a.running++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		a.running--
	}, 0
}

// none reports whether there are no limits.
func (l *limits) none() bool { return l.rate == 0 && l.atOnce == 0 }

// Enter lets a request of a caller in, until done is called. The error is a
// *[Refusal] that says how long to wait.
func (g *Gate) Enter(r *http.Request, c Caller) (done func(), err error) {
	if g.limits.none() {
		return func() {}, nil
	}
	key := c.Name
	if !c.Known() {
		key = addressOf(r)
	}
	done, wait := g.limits.enter(key)
	if wait > 0 {
		return nil, &Refusal{Message: "too many requests of this caller", Wait: wait}
	}
	return done, nil
}

package access

import (
	"net"
	"net/http"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// After guessesOfOne wrong passwords for a user from an address, or
	// guessesOfAll for any from there, that pair or that address is locked out
	// for lockedFor. A user is never locked out from everywhere: that would be
	// a way to shut somebody else out.
	guessesOfOne = 10
	guessesOfAll = 100
	lockedFor    = 5 * time.Minute
	guessersMost = 8192
)

// guesses counts wrong passwords.
type guesses struct {
	now func() time.Time

	mu    sync.Mutex // guards what follows
	count *lru.Cache[string, tries]
}

type tries struct {
	n     int
	since time.Time
}

func newGuesses(now func() time.Time) *guesses {
	count, err := lru.New[string, tries](guessersMost)
	if err != nil {
		panic(err) // the size is positive
	}
	return &guesses{now: now, count: count}
}

// addressOf is where a request comes from. Headers of proxies are not looked
// at: anybody can write them.
func addressOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// locked is how long a user may not sign in from an address, 0 when it may.
func (g *guesses) locked(address, user string) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(g.lockedLocked(address, guessesOfAll), g.lockedLocked(pair(address, user), guessesOfOne))
}

func (g *guesses) lockedLocked(key string, most int) time.Duration {
	t, ok := g.count.Get(key)
	if !ok || t.n < most {
		return 0
	}
	return max(lockedFor-g.now().Sub(t.since), 0)
}

// wrong notes a wrong password.
func (g *guesses) wrong(address, user string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, key := range []string{address, pair(address, user)} {
		t, ok := g.count.Get(key)
		if !ok || g.now().Sub(t.since) >= lockedFor {
			t = tries{since: g.now()}
		}
		t.n++
		g.count.Add(key, t)
	}
}

// right forgets the wrong ones of a user: people mistype.
func (g *guesses) right(address, user string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.count.Remove(pair(address, user))
}

func pair(address, user string) string { return address + " " + user }

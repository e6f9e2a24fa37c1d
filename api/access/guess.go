package access

import (
	"crypto/sha256"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// After guessesOfOne wrong passwords for a user from an address, or
	// guessesOfAll for any from there, that pair or that address is locked out
	// for lockedFor. A user is never locked out from everywhere: that would be
	// a way to shut somebody else out. Nor does an address lock out whom it has
	// seen sign in rightly, as long as that is younger: many may share it.
	guessesOfOne = 10
	guessesOfAll = 100
	lockedFor    = 5 * time.Minute
	guessersMost = 8192
)

// guesses counts wrong passwords. Its memory does not grow with the names that
// are tried: keys are hashes, and the oldest go.
type guesses struct {
	now func() time.Time

	mu    sync.Mutex // guards what follows
	count *lru.Cache[guesser, tries]
	seen  *lru.Cache[guesser, time.Time] // when who signed in rightly from where
}

// guesser is an address, or a pair of an address and a user.
type guesser [sha256.Size]byte

type tries struct {
	n     int
	since time.Time
}

func newGuesses(now func() time.Time) *guesses {
	count, err := lru.New[guesser, tries](guessersMost)
	if err != nil {
		panic(err) // the size is positive
	}
	seen, err := lru.New[guesser, time.Time](guessersMost)
	if err != nil {
		panic(err)
	}
	return &guesses{now: now, count: count, seen: seen}
}

// addressOf is where a request comes from: an IPv4 address, or the network of
// an IPv6 one, for one machine has 2^64 of those. Headers of proxies are not
// looked at: anybody can write them.
func addressOf(r *http.Request) string { return networkOf(r.RemoteAddr) }

func networkOf(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if ip = ip.Unmap(); ip.Is4() || ip.IsLoopback() {
		return ip.String()
	}
	network, err := ip.WithZone("").Prefix(64)
	if err != nil {
		return host
	}
	return network.String()
}

// locked is how long a user may not sign in from an address, 0 when it may.
func (g *guesses) locked(address, user string) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	ofOne := g.lockedLocked(pair(address, user), guessesOfOne)
	if at, ok := g.seen.Get(pair(address, user)); ok && g.now().Sub(at) < lockedFor {
		return ofOne
	}
	return max(ofOne, g.lockedLocked(alone(address), guessesOfAll))
}

func (g *guesses) lockedLocked(key guesser, most int) time.Duration {
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
	for _, key := range []guesser{alone(address), pair(address, user)} {
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
	g.seen.Add(pair(address, user), g.now())
}

// saw notes that a user goes on signing in rightly. The wrong ones stay: they
// may be of somebody else behind the same address.
func (g *guesses) saw(address, user string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen.Add(pair(address, user), g.now())
}

func alone(address string) guesser { return sha256.Sum256([]byte(address)) }

func pair(address, user string) guesser { return sha256.Sum256([]byte(address + " " + user)) }

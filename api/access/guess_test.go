package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// newPasswords is a gate that knows ann and bob by their passwords.
func newPasswords(t *testing.T, at *clock) *Gate {
	t.Helper()
	file := filepath.Join(t.TempDir(), "htpasswd")
	write(t, file, line(t, "ann", "hers")+line(t, "bob", "his"), at.now())
	g, err := New(Options{HtpasswdFile: file, Now: at.now})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func from(address string, r *http.Request) *http.Request {
	r.RemoteAddr = address
	return r
}

// TestBehindOneAddress a guesser shuts out itself and newcomers, but not those
// who have signed in from there.
func TestBehindOneAddress(t *testing.T) {
	at := &clock{time.Now()}
	g := newPasswords(t, at)
	const here, there = "192.0.2.1:1000", "192.0.2.2:1000"
	wantCaller(t, g, from(here, asking("ann", "hers", "")), "user:ann")
	for n := range guessesOfAll {
		if wait := wantRefused(t, g, from(here, asking(fmt.Sprint("user", n), "guess", ""))).Wait; wait != 0 {
			t.Fatalf("locked out after %d", n)
		}
	}
	if wantRefused(t, g, from(here, asking("bob", "his", ""))).Wait == 0 {
		t.Error("an address that guesses is not locked out")
	}
	wantCaller(t, g, from(here, asking("ann", "hers", "")), "user:ann")
	wantCaller(t, g, from(there, asking("bob", "his", "")), "user:bob")
	// What was right once is no way to guess without end.
	for range guessesOfOne {
		wantRefused(t, g, from(here, asking("ann", "guess", "")))
	}
	if wantRefused(t, g, from(here, asking("ann", "hers", ""))).Wait == 0 {
		t.Error("who is guessed at from an address is let in from there")
	}
	wantCaller(t, g, from(there, asking("ann", "hers", "")), "user:ann")
}

// TestGuessesBesideAUserAreCounted: that a user of the same address goes on
// working does not take the guesses back.
func TestGuessesBesideAUserAreCounted(t *testing.T) {
	at := &clock{time.Now()}
	g := newPasswords(t, at)
	for n := range guessesOfOne {
		wantCaller(t, g, asking("ann", "hers", ""), "user:ann")
		if wait := wantRefused(t, g, asking("ann", "guess", "")).Wait; wait != 0 {
			t.Fatalf("locked out after %d", n)
		}
	}
	if wantRefused(t, g, asking("ann", "guess", "")).Wait == 0 {
		t.Error("guesses beside the user are without end")
	}
}

// TestAddressesOfOneMachine: an IPv6 network is one guesser, and so is an IPv4
// address however it is written.
func TestAddressesOfOneMachine(t *testing.T) {
	for address, want := range map[string]string{
		"[2001:db8:1:2::1]:1":    "2001:db8:1:2::/64",
		"[2001:db8:1:2:ffff::]:": "2001:db8:1:2::/64",
		"[2001:db8:1:3::1]:1":    "2001:db8:1:3::/64",
		"[fe80::1%eth0]:1":       "fe80::/64",
		"[::ffff:192.0.2.1]:1":   "192.0.2.1",
		"192.0.2.1:1":            "192.0.2.1",
		"[::1]:1":                "::1",
		"@":                      "@",
	} {
		if got := addressOf(from(address, asking("", "", ""))); got != want {
			t.Errorf("%s is %s, want %s", address, got, want)
		}
	}
}

// TestGuessersTakeNoMemory, however many addresses they have and names they try.
func TestGuessersTakeNoMemory(t *testing.T) {
	g := newGuesses(time.Now)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for n := range 3 * guessersMost {
		g.wrong(fmt.Sprint(n), "user")
	}
	name := strings.Repeat("u", 4<<10)
	for n := range 2 * guessersMost {
		g.wrong("192.0.2.1", fmt.Sprint(n, name))
	}
	if grown := int64(heap()) - int64(before); grown > 16<<20 {
		t.Errorf("%d bytes", grown)
	}
	runtime.KeepAlive(g)
}

// TestAFloodOfGuesses computes one password of an address at a time, none once
// the address is locked out, and holds up nobody who is known or comes from elsewhere.
func TestAFloodOfGuesses(t *testing.T) {
	at := &clock{time.Now()}
	g := newPasswords(t, at)
	g.turns.slots = make(chan struct{}, 2) // whatever this machine has
	wantCaller(t, g, from("192.0.2.2:1", asking("ann", "hers", "")), "user:ann")
	g.turns.slots <- struct{}{} // one of the two slots is taken: what computes waits where we can count it
	var all sync.WaitGroup
	var guessed atomic.Int32
	for n := range 2 * guessesOfAll {
		all.Go(func() {
			_, err := g.Identify(from(fmt.Sprint("192.0.2.1:", n+1), asking(fmt.Sprint("user", n), "guess", "")))
			if refused := new(Refusal); errors.As(err, &refused) && refused.Wait == 0 {
				guessed.Add(1)
			}
		})
	}
	wantCaller(t, g, from("192.0.2.2:1", asking("ann", "hers", "")), "user:ann") // from memory
	wantCaller(t, g, from("192.0.2.3:1", asking("bob", "his", "")), "user:bob")  // behind one guess at most
	<-g.turns.slots
	all.Wait()
	if n := guessed.Load(); n != guessesOfAll {
		t.Errorf("%d guesses were computed, want %d", n, guessesOfAll)
	}
	if len(g.turns.lanes) != 0 || len(g.turns.slots) != 0 {
		t.Errorf("%d lanes and %d slots are left", len(g.turns.lanes), len(g.turns.slots))
	}
}

// TestOneOfAnAddressAtATime: the second of an address does not even wait for a
// processor.
func TestOneOfAnAddressAtATime(t *testing.T) {
	turns := newTurns()
	leave, err := turns.line(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := turns.line(gone, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("two of an address: %v", err)
	}
	other, err := turns.line(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	other()
	leave()
	if leave, err = turns.line(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	leave()
}

// TestAHerdOfOneLogin computes its password once.
func TestAHerdOfOneLogin(t *testing.T) {
	at := &clock{time.Now()}
	g := newPasswords(t, at)
	var computed atomic.Int32
	g.htpasswd.compare = func(hash, password []byte) error {
		computed.Add(1)
		return bcrypt.CompareHashAndPassword(hash, password)
	}
	leave, err := g.turns.line(t.Context(), "192.0.2.1") // which is where tests' requests come from
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() { wantCaller(t, g, asking("ann", "hers", ""), "user:ann") })
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		g.turns.mu.Lock()
		waiting := g.turns.lanes["192.0.2.1"].waiting
		g.turns.mu.Unlock()
		if waiting == 51 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d wait", waiting)
		}
	}
	leave()
	all.Wait()
	if n := computed.Load(); n != 1 {
		t.Errorf("the password was computed %d times", n)
	}
}

// TestWhoIsNotThereTakesAsLong as who is: a hash is compared, of the cost that
// most have.
func TestWhoIsNotThereTakesAsLong(t *testing.T) {
	at := &clock{time.Now()}
	file := filepath.Join(t.TempDir(), "htpasswd")
	users := ""
	for n, cost := range []int{bcrypt.MinCost, 7, 7, 5} {
		hash, err := bcrypt.GenerateFromPassword([]byte("x"), cost)
		if err != nil {
			t.Fatal(err)
		}
		users += fmt.Sprintf("u%d:%s\n", n, hash)
	}
	write(t, file, users, at.now())
	h, err := openHtpasswd(file, at.now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, err := h.login("nobody", "x")
	if err != nil {
		t.Fatal(err)
	}
	if cost, err := bcrypt.Cost(l.usual); err != nil || cost != 7 {
		t.Errorf("cost %d, %v", cost, err)
	}
	computed := 0
	h.compare = func(hash, password []byte) error {
		computed++
		return bcrypt.CompareHashAndPassword(hash, password)
	}
	if h.right(l) || h.known(l) || computed != 1 {
		t.Errorf("let in by another's password, or refused at once: %d computed", computed)
	}
}

package access

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/crypto/bcrypt"
)

const (
	maxHtpasswd = 10 << 20 // bytes: some 100,000 users
	// verifiedFor is how long a password that was right is believed: bcrypt is
	// slow by design, and a client sends its password with every request.
	verifiedFor  = 5 * time.Minute
	verifiedMost = 4096
	// comparesAtOnce bounds what guessers can make us compute.
	comparesAtOnce = 4
	// lookEvery is how often the file is looked at for a change.
	lookEvery = time.Second
)

// htpasswd is a file of users and bcrypt hashes, read again when it changes.
type htpasswd struct {
	path     string
	now      func() time.Time
	key      [32]byte                                 // of the verified, so that memory holds no password
	verified *lru.Cache[[sha256.Size]byte, time.Time] // until when
	compares chan struct{}

	mu     sync.Mutex // guards what follows
	users  map[string][]byte
	stamp  stamp
	looked time.Time
}

// stamp tells one version of a file from another.
type stamp struct {
	at   time.Time
	size int64
}

func openHtpasswd(path string, now func() time.Time) (*htpasswd, error) {
	verified, err := lru.New[[sha256.Size]byte, time.Time](verifiedMost)
	if err != nil {
		return nil, err
	}
	h := &htpasswd{path: path, now: now, compares: make(chan struct{}, comparesAtOnce), verified: verified}
	rand.Read(h.key[:])
	return h, h.read()
}

// read reads the file if it is another than before. h.mu is held, but for the
// first time.
func (h *htpasswd) read() error {
	f, err := os.Open(h.path)
	if err != nil {
		return fmt.Errorf("htpasswd_file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("htpasswd_file: %w", err)
	}
	now := stamp{info.ModTime(), info.Size()}
	if h.users != nil && now == h.stamp {
		return nil
	}
	users, err := parseHtpasswd(io.LimitReader(f, maxHtpasswd))
	if err != nil {
		return fmt.Errorf("htpasswd_file %s: %w", h.path, err)
	}
	h.users, h.stamp = users, now
	h.verified.Purge()
	return nil
}

// parseHtpasswd reads lines of user:hash. Other hashes than bcrypt are errors:
// a user who silently cannot sign in is a riddle, and a weak hash a hole.
func parseHtpasswd(r io.Reader) (map[string][]byte, error) {
	users := map[string][]byte{}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		user, hash, ok := strings.Cut(line, ":")
		if _, err := bcrypt.Cost([]byte(hash)); !ok || user == "" || err != nil {
			return nil, fmt.Errorf("line %d is not a user with a bcrypt hash: make it by htpasswd -B", n)
		}
		users[user] = []byte(hash)
	}
	return users, lines.Err()
}

// hashOf is what the file has for a user now. An unreadable file leaves what
// was read before.
func (h *htpasswd) hashOf(user string) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var err error
	if now := h.now(); now.Sub(h.looked) >= lookEvery || now.Before(h.looked) {
		h.looked = now
		err = h.read()
	}
	return h.users[user], err
}

// aHash is compared with where there is no such user, so that the time it takes
// does not tell who there is.
var aHash = sync.OnceValue(func() []byte {
	hash, _ := bcrypt.GenerateFromPassword(nil, bcrypt.DefaultCost)
	return hash
})

// has reports whether user and password are in the file. The error is that of
// the file, and comes beside the answer, or the cause of ctx where that ends
// before it was our turn to compute.
func (h *htpasswd) has(ctx context.Context, user, password string) (bool, error) {
	hash, err := h.hashOf(user)
	mac := hmac.New(sha256.New, h.key[:])
	fmt.Fprintf(mac, "%d %s%s%s", len(user), user, password, hash)
	seen := [sha256.Size]byte(mac.Sum(nil))
	if until, ok := h.verified.Get(seen); ok && hash != nil && h.now().Before(until) {
		return true, err
	}
	select {
	case h.compares <- struct{}{}:
	case <-ctx.Done(): // behind others' guesses
		return false, context.Cause(ctx)
	}
	defer func() { <-h.compares }()
	known := hash != nil
	if !known {
		hash = aHash()
	}
	right := bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil && known
	if right {
		h.verified.Add(seen, h.now().Add(verifiedFor))
	}
	return right, err
}

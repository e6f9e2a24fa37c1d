package access

import (
	"bufio"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
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
	// lookEvery is how often the file is looked at for a change.
	lookEvery = time.Second
)

// htpasswd is a file of users and bcrypt hashes, read again when it changes.
type htpasswd struct {
	path     string
	now      func() time.Time
	key      [32]byte                                 // of the verified, so that memory holds no password
	verified *lru.Cache[[sha256.Size]byte, time.Time] // until when
	compare  func(hash, password []byte) error        // bcrypt's, which tests count
	log      *slog.Logger

	mu     sync.Mutex // guards what follows
	users  map[string][]byte
	usual  []byte // the hash of some user, of the cost that most have
	stamp  stamp
	looked time.Time
	fault  error // why it could not be read, last time
}

func openHtpasswd(path string, now func() time.Time, log *slog.Logger) (*htpasswd, error) {
	verified, err := lru.New[[sha256.Size]byte, time.Time](verifiedMost)
	if err != nil {
		return nil, err
	}
	h := &htpasswd{path: path, now: now, verified: verified, compare: bcrypt.CompareHashAndPassword, log: log}
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
	now := stampOf(info)
	if h.users != nil && now == h.stamp {
		return nil
	}
	users, err := parseHtpasswd(io.LimitReader(f, maxHtpasswd))
	if err != nil {
		return fmt.Errorf("htpasswd_file %s: %w", h.path, err)
	}
	h.users, h.usual, h.stamp = users, usualHash(users), now
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

// usualHash is a hash of the cost that most users have, nil without any.
func usualHash(users map[string][]byte) (usual []byte) {
	count := map[int]int{}
	most := 0
	for _, hash := range users {
		cost, _ := bcrypt.Cost(hash) // as parseHtpasswd found it
		if count[cost]++; count[cost] > most {
			most, usual = count[cost], hash
		}
	}
	return usual
}

// login is a user and a password, and what the file has for that user. hash is
// nil where there is no such user; usual is compared then, so that the time it
// takes does not tell who there is.
type login struct {
	user, password string
	hash, usual    []byte
}

// login looks a user up in the file as it is now. An unreadable one leaves what
// was read before; the error tells of it, beside the answer, and the log once.
func (h *htpasswd) login(user, password string) (login, error) {
	l, fault, news := h.look(user, password)
	if news {
		h.log.Warn("the htpasswd file has changed and cannot be read; what was read before is used", "error", fault)
	}
	return l, fault
}

// look is login without the log. news says that the error is another than before.
func (h *htpasswd) look(user, password string) (l login, fault error, news bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := h.now(); now.Sub(h.looked) >= lookEvery || now.Before(h.looked) {
		h.looked = now
		before := h.fault
		h.fault = h.read()
		news = h.fault != nil && (before == nil || before.Error() != h.fault.Error())
	}
	return login{user, password, h.users[user], h.usual}, h.fault, news
}

// sum is what is kept of a login that was right.
func (h *htpasswd) sum(l login) [sha256.Size]byte {
	mac := hmac.New(sha256.New, h.key[:])
	fmt.Fprintf(mac, "%d %s%d %s%s", len(l.user), l.user, len(l.password), l.password, l.hash)
	return [sha256.Size]byte(mac.Sum(nil))
}

// known reports whether a login was right a short while ago.
func (h *htpasswd) known(l login) bool {
	until, ok := h.verified.Get(h.sum(l))
	return ok && l.hash != nil && h.now().Before(until)
}

// right computes whether a login is in the file, which takes as long where
// there is no such user.
func (h *htpasswd) right(l login) bool {
	hash := l.hash
	if hash == nil {
		hash = l.usual
	}
	right := h.compare(hash, []byte(l.password)) == nil && l.hash != nil
	if right {
		h.verified.Add(h.sum(l), h.now().Add(verifiedFor))
	}
	return right
}

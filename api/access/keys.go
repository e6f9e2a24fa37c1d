package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
)

// errIssuerSilent: an issuer cannot be asked for its keys.
var errIssuerSilent = errors.New("the issuer cannot be asked for its keys")

// maxKeys bounds a set of keys, in bytes: some have a certificate with each.
const maxKeys = 1 << 20

const (
	// issuerAgain is how long an issuer is left alone after a question.
	issuerAgain = 5 * time.Second
	// keysFor is how long an issuer's keys are believed without asking again.
	keysFor = 15 * time.Minute
)

// keyFile is a file with the public keys of an issuer (RFC 7517, section 5),
// for issuers that cannot be asked from here. It is read again when it changes;
// one that cannot be read leaves what was read before, and the log says so once.
type keyFile struct {
	path string
	now  func() time.Time
	log  *slog.Logger

	mu     sync.Mutex // guards what follows
	keys   oidc.StaticKeySet
	stamp  stamp
	looked time.Time
	fault  error // why it could not be read, last time
}

func openKeyFile(path string, now func() time.Time, log *slog.Logger) (*keyFile, error) {
	k := &keyFile{path: path, now: now, log: log}
	return k, k.read()
}

// read reads the file if it is another than before. k.mu is held, but for the
// first time.
func (k *keyFile) read() error {
	f, err := os.Open(k.path)
	if err != nil {
		return fmt.Errorf("keys_file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("keys_file: %w", err)
	}
	now := stampOf(info)
	if now == k.stamp {
		return nil
	}
	var set jose.JSONWebKeySet
	if err := json.NewDecoder(io.LimitReader(f, maxKeys)).Decode(&set); err != nil {
		return fmt.Errorf("keys_file %s: want a JSON Web Key Set: %w", k.path, err)
	}
	keys, err := publicKeys(set)
	if err != nil {
		return fmt.Errorf("keys_file %s: %w", k.path, err)
	}
	k.keys, k.stamp = keys, now
	return nil
}

func publicKeys(set jose.JSONWebKeySet) (keys oidc.StaticKeySet, err error) {
	for _, key := range set.Keys {
		if !key.IsPublic() {
			return keys, errors.New("it holds a key that is not public: this file needs none, and nobody should see it")
		}
		keys.PublicKeys = append(keys.PublicKeys, key.Key)
	}
	if len(keys.PublicKeys) == 0 {
		return keys, errors.New("it holds no key")
	}
	return keys, nil
}

// VerifySignature is oidc.KeySet's.
func (k *keyFile) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	keys, news := k.current()
	if news != nil {
		k.log.Warn("the file of an issuer's keys has changed and cannot be read; what was read before is used", "error", news)
	}
	return keys.VerifySignature(ctx, token)
}

// current are the keys as the file has them now. news is why it cannot be read, if
// it is another reason than before.
func (k *keyFile) current() (keys oidc.StaticKeySet, news error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := k.now(); now.Sub(k.looked) >= lookEvery || now.Before(k.looked) {
		k.looked = now
		before := k.fault
		k.fault = k.read()
		if k.fault != nil && (before == nil || before.Error() != k.fault.Error()) {
			news = k.fault
		}
	}
	return k.keys, news
}

// issuerKeys are the keys that an issuer publishes. They are fetched when a
// token wants one that is not known, and anew beside a token when they are old,
// so that a key which the issuer took back ends. While the issuer cannot be
// asked, those that are known are used.
type issuerKeys struct {
	url    string
	client *http.Client
	now    func() time.Time

	mu    sync.Mutex // guards what follows
	keys  []jose.JSONWebKey
	at    time.Time     // when they came
	asked time.Time     // when they were asked for the last time,
	why   error         // and why they did not come
	under chan struct{} // closed when the question under way is answered; nil: none is
}

// VerifySignature is oidc.KeySet's. The error is errIssuerSilent where the
// issuer might know better.
func (k *issuerKeys) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	signed, err := jose.ParseSignedCompact(token, algorithms())
	if err != nil {
		return nil, err
	}
	keys, old := k.known()
	payload, known := signedByOne(keys, signed)
	if known && !old {
		return payload, nil
	}
	asking := k.ask()
	if known {
		return payload, nil
	}
	select {
	case <-asking:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	keys, why := k.answer()
	if payload, known = signedByOne(keys, signed); known {
		return payload, nil
	}
	if why != nil {
		return nil, fmt.Errorf("%w: %w", errIssuerSilent, why)
	}
	return nil, errors.New("no key of the issuer's has signed it")
}

// signedByOne is what was signed, where one of the keys did it. A token that
// does not say by which is tried with all.
func signedByOne(keys []jose.JSONWebKey, signed *jose.JSONWebSignature) ([]byte, bool) {
	id := signed.Signatures[0].Header.KeyID // a compact one has one
	for _, key := range keys {
		if id != "" && key.KeyID != id {
			continue
		}
		if payload, err := signed.Verify(key.Key); err == nil {
			return payload, true
		}
	}
	return nil, false
}

func (k *issuerKeys) known() (keys []jose.JSONWebKey, old bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys, k.now().Sub(k.at) >= keysFor
}

func (k *issuerKeys) answer() ([]jose.JSONWebKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys, k.why
}

// closedAlready is a question that needs no waiting for.
var closedAlready = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// ask has the keys fetched, once for all who ask at that time, and once in
// issuerAgain: anybody can write tokens that name keys which nobody knows. The
// channel is closed when there is an answer.
func (k *issuerKeys) ask() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.under != nil {
		return k.under
	}
	if now := k.now(); !k.asked.IsZero() && now.Sub(k.asked) < issuerAgain {
		return closedAlready
	}
	k.asked, k.under = k.now(), make(chan struct{})
	go k.fetch(k.under) // at most as long as the client's timeout
	return k.under
}

func (k *issuerKeys) fetch(done chan struct{}) {
	keys, err := k.get()
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		k.keys, k.at = keys, k.asked
	}
	k.why, k.under = err, nil
	close(done)
}

func (k *issuerKeys) get() ([]jose.JSONWebKey, error) {
	res, err := k.client.Get(k.url)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", k.url, res.Status)
	}
	var set jose.JSONWebKeySet
	if err := json.NewDecoder(res.Body).Decode(&set); err != nil {
		return nil, fmt.Errorf("%s sends no JSON Web Key Set: %w", k.url, err)
	}
	// What is no public key, a secret above all, must not verify anything.
	return slices.DeleteFunc(set.Keys, func(key jose.JSONWebKey) bool { return !key.IsPublic() }), nil
}

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"golang.org/x/sync/singleflight"
)

const (
	// maxSecret bounds a password file and what a helper prints, in bytes.
	maxSecret = 64 << 10
	// configLife is how long docker's config.json is not read again: short
	// enough that a login is noticed at the next pull.
	configLife = 10 * time.Second
	// helperLife is how long a helper's answer is used. Running one takes up
	// to seconds, and what it gives lives for hours.
	helperLife = 5 * time.Minute
	// sourceWait is how long who has a credential waits for a newer one: a
	// helper that is slow, or fails, is no reason to show nothing.
	sourceWait = 500 * time.Millisecond
	// dockerHubKey is how docker's config and the helpers call Docker Hub.
	dockerHubKey = "index.docker.io"
)

// credentialSource gives what to sign in with; the zero value is nothing.
// With renew it does not answer from memory, for upstream refused what it
// gave last. It may be called in parallel.
type credentialSource interface {
	credential(ctx context.Context, renew bool) (authn.AuthConfig, error)
}

// nobody has no credential.
type nobody struct{}

func (nobody) credential(context.Context, bool) (authn.AuthConfig, error) {
	return authn.AuthConfig{}, nil
}

// newLogin makes the source that a login of the upstream at base names, or that
// of docker's config for none.
func newLogin(l Login, o UpstreamOptions, base *url.URL, env upstreamEnv) (credentialSource, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	switch {
	case l.CredentialHelper != "":
		h, err := newHelper(l.CredentialHelper, helperKey(base))
		if err != nil {
			return nil, err
		}
		return &remembered{who: h.program, ask: h.get, life: helperLife, now: env.now}, nil
	case l.ClientID != "":
		return newClientGrant(l, o.CAFile, env)
	case l.Username != "":
		p := &passwordFile{username: l.Username, path: l.PasswordFile}
		_, err := p.credential(context.Background(), true)
		return p, err
	}
	c := &dockerConfig{keys: configKeys(o.Name, base), log: env.log}
	return &remembered{who: "docker's config", ask: c.get, life: configLife, now: env.now}, nil
}

// passwordFile is a user and a file that holds the password, which is read
// again when the file changes.
type passwordFile struct {
	username, path string

	mu       sync.Mutex // guards what follows; also held while reading: the file is small and local
	read     os.FileInfo
	password string
}

func (p *passwordFile) credential(context.Context, bool) (authn.AuthConfig, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.refresh(); err != nil && p.password == "" {
		return authn.AuthConfig{}, &Error{Code: CodeUnauthorized, Message: "password_file", Err: err}
	}
	// A file that is being replaced, or went away, leaves the last password in force.
	return authn.AuthConfig{Username: p.username, Password: p.password}, nil
}

func (p *passwordFile) refresh() error {
	now, err := os.Stat(p.path)
	if err != nil {
		return err
	}
	if p.read != nil && os.SameFile(p.read, now) && p.read.ModTime().Equal(now.ModTime()) && p.read.Size() == now.Size() {
		return nil
	}
	f, err := os.Open(p.path)
	if err != nil {
		return err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxSecret))
	if err != nil {
		return err
	}
	password := strings.TrimRight(string(content), "\r\n")
	if password == "" {
		return fmt.Errorf("%s is empty", p.path)
	}
	p.read, p.password = now, password
	return nil
}

// remembered keeps what a slow source said, and asks it once for all who wait.
type remembered struct {
	who     string // the source, for people
	ask     func(context.Context) (authn.AuthConfig, error)
	life    time.Duration
	now     func() time.Time
	flights singleflight.Group

	mu    sync.Mutex // guards what follows
	last  authn.AuthConfig
	until time.Time
}

func (r *remembered) credential(ctx context.Context, renew bool) (authn.AuthConfig, error) {
	r.mu.Lock()
	last, fresh := r.last, r.now().Before(r.until)
	r.mu.Unlock()
	if fresh && !renew {
		return last, nil
	}
	if renew || last == (authn.AuthConfig{}) {
		return r.renew(ctx)
	}
	short, cancel := context.WithTimeout(ctx, sourceWait)
	defer cancel()
	got, err := r.renew(short)
	if err != nil && ctx.Err() == nil {
		return r.makeDo(), nil
	}
	return got, err
}

// makeDo goes on with what there is, which may be good still: upstream will
// tell. The source is not asked again for a while.
func (r *remembered) makeDo() authn.AuthConfig {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.now(); !now.Before(r.until) {
		r.until = now.Add(configLife)
	}
	return r.last
}

// renew asks the source.
func (r *remembered) renew(ctx context.Context) (authn.AuthConfig, error) {
	got, err := together(ctx, &r.flights, "", func(ctx context.Context) (authn.AuthConfig, error) {
		got, err := r.ask(ctx)
		if err == nil {
			r.mu.Lock()
			r.last, r.until = got, r.now().Add(r.life)
			r.mu.Unlock()
		}
		return got, err
	})
	return got, silence(ctx, err, r.who)
}

// silence says who kept a question waiting, where that was not upstream itself.
func silence(ctx context.Context, err error, who string) error {
	if err != nil && err == ctx.Err() && errors.Is(err, context.DeadlineExceeded) {
		return &Error{Code: CodeTimeout, Message: who + " does not answer", Err: err}
	}
	return err
}

// dockerConfig looks in docker's config.json, and podman's auth.json.
type dockerConfig struct {
	keys []string
	log  *slog.Logger

	mu   sync.Mutex // guards told
	told string     // the last complaint, said once
}

// get looks the keys up. A config that cannot be read is not a reason to
// refuse public images: it is told and taken as empty.
func (c *dockerConfig) get(ctx context.Context) (authn.AuthConfig, error) {
	for _, key := range c.keys {
		found, err := authn.Resolve(ctx, authn.DefaultKeychain, configKey(key))
		if err != nil {
			c.complain(key, err)
			continue
		}
		login, err := authn.Authorization(ctx, found)
		if err != nil {
			c.complain(key, err)
			continue
		}
		if *login != (authn.AuthConfig{}) {
			return *login, nil
		}
	}
	return authn.AuthConfig{}, nil
}

func (c *dockerConfig) complain(key string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if text := plain(err.Error()); text != c.told {
		c.told = text
		c.log.Warn("docker's config cannot be used; asking upstream without a credential", "registry", key, "error", text)
	}
}

// configKey is a registry as authn looks it up.
type configKey string

func (k configKey) String() string      { return string(k) }
func (k configKey) RegistryStr() string { return string(k) }

// configKeys are the names under which docker's config may hold a credential
// that belongs to the upstream at base. The registry's name counts only if base
// is that host or one below it: the password for docker.io is not for whatever
// stands in for docker.io.
func configKeys(name string, base *url.URL) []string {
	keys := []string{helperKey(base)}
	host := (&url.URL{Host: name}).Hostname()
	if sameHost(host, base.Hostname()) || below(base.Hostname(), host) {
		if name == dockerHub {
			name = dockerHubKey
		}
		if name != keys[0] {
			keys = append(keys, name)
		}
	}
	return keys
}

// helperKey is the name of the upstream for docker's config and its helpers.
func helperKey(base *url.URL) string {
	if canonicalRegistry(base.Host) == dockerHub {
		return dockerHubKey
	}
	return base.Host
}

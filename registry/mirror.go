package registry

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// A mirror is another place where the bytes of an upstream may be. It is asked
// first, for less time than it takes a client to lose patience, and believed in
// nothing but bytes, which have a digest: what a tag means, what there is, and
// who may see it is upstream's to say (docs/decisions/0022).

// liarFor is how long a mirror that sent wrong bytes is not asked for them again.
const liarFor = 10 * time.Minute

// mirroring says what an upstream is a mirror of. The nil one is of nothing.
type mirroring struct {
	registry string // its name, which the mirror is told as containerd tells it
	prefix   string // before the path of a repository, "" or with a slash at its end
	liars    absences
}

// path is where a repository of the upstream is in the mirror.
func (m *mirroring) path(path string) string {
	if m == nil {
		return path
	}
	return m.prefix + path
}

// suffix is what stands behind the host in the address of a mirror.
func (m *mirroring) suffix() string {
	if m == nil || m.prefix == "" {
		return ""
	}
	return "/" + strings.TrimSuffix(m.prefix, "/")
}

// query tells a mirror that is one for many registries which one is meant.
func (m *mirroring) query(query string) string {
	if m == nil {
		return query
	}
	ns := url.Values{"ns": {m.registry}}.Encode()
	if query == "" {
		return ns
	}
	return query + "&" + ns
}

// addMirrors makes the mirrors that the options name.
func (u *upstream) addMirrors(env upstreamEnv) error {
	seen := map[string]bool{}
	for _, address := range u.options.Mirrors {
		if seen[address] {
			return fmt.Errorf("mirror %q is named twice", address)
		}
		seen[address] = true
		m, err := newMirror(u.options, address, env)
		if err != nil {
			return fmt.Errorf("mirror: %w", err)
		}
		u.mirrors = append(u.mirrors, m)
	}
	u.bare.mirrors = u.mirrors
	return nil
}

// newMirror makes one mirror. Its login is that of the upstream which is
// configured for its host, else what docker's config has for it: never that of
// the upstream it mirrors.
func newMirror(of UpstreamOptions, address string, env upstreamEnv) (*upstream, error) {
	base, path, err := parseAddress(address)
	if err != nil {
		return nil, err
	}
	o := UpstreamOptions{Name: base.Host, CAFile: of.CAFile}
	if env.configured != nil {
		if known, ok := env.configured(base.Host); ok {
			o.CAFile, o.TokenHosts, o.Accounts = known.CAFile, known.TokenHosts, known.Accounts
			o.SetLogin(known.Login())
		}
	}
	m, err := newUpstreamAt(base, o, env)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", base.Host, err)
	}
	if path != "" {
		path += "/"
	}
	m.mirrorOf = &mirroring{registry: of.Name, prefix: path, liars: absences{now: env.withDefaults().now}}
	return m, nil
}

// willing reports whether a mirror is to be asked for something now.
func (m *upstream) willing(s subject, about string) bool {
	if m.limit.restingFor(s) != nil || m.pulse.hung() != nil || m.mirrorOf.liars.check(about) != nil {
		return false
	}
	_, _, resting := m.outage.resting()
	return !resting
}

// lied remembers that a mirror sent other bytes than it was asked for.
func (m *upstream) lied(d digest.Digest) {
	m.mirrorOf.liars.remember(d.String(), errors.New("it sent wrong bytes"), liarFor)
}

// fromMirrors asks mirrors in order until one has it. A mirror gets patience,
// and one that uses it up is left alone for a while.
func fromMirrors[T any](ctx context.Context, u *upstream, s subject, about string, do func(context.Context, *upstream) (T, error)) (got T, from *upstream) {
	for _, m := range u.mirrors {
		if !m.willing(s, about) {
			continue
		}
		short, cancel := context.WithTimeout(ctx, u.env.patience)
		got, err := do(short, m)
		cancel()
		if err == nil {
			return got, m
		}
		if ctx.Err() != nil {
			break
		}
		u.env.log.Debug("mirror does not have it, the next is asked", "upstream", u.name, "mirror", m.name, "what", about, "error", err)
	}
	return got, nil
}

// manifestFromMirrors fetches a manifest by its digest.
func (u *upstream) manifestFromMirrors(ctx context.Context, path string, ref Reference) (fetchedManifest, bool) {
	got, from := fromMirrors(ctx, u, subjectManifest, ref.Digest.String(), func(ctx context.Context, m *upstream) (fetchedManifest, error) {
		got, err := m.manifestOnce(ctx, path, ref)
		var wrong *wrongDigest
		if errors.As(err, &wrong) {
			m.lied(ref.Digest)
		}
		return got, err
	})
	if from == nil {
		return fetchedManifest{}, false
	}
	got.Mirror, got.Anonymous = from.name, false
	return got, true
}

// headFromMirrors asks the mirrors what a tag points to.
func (u *upstream) headFromMirrors(ctx context.Context, path, tag string) (tagHead, bool) {
	got, from := fromMirrors(ctx, u, subjectHead, path+":"+tag, func(ctx context.Context, m *upstream) (tagHead, error) {
		return m.headOnce(ctx, path, tag)
	})
	if from == nil {
		return tagHead{}, false
	}
	got.Mirror, got.Anonymous = from.name, false
	return got, true
}

// sizeFromMirrors asks the mirrors for the size of a blob.
func (u *upstream) sizeFromMirrors(ctx context.Context, path string, d digest.Digest) (size int64, ok bool) {
	size, from := fromMirrors(ctx, u, subjectBlob, d.String(), func(ctx context.Context, m *upstream) (int64, error) {
		return m.blobSize(ctx, path, d)
	})
	return size, from != nil
}

// closedFor is why an upstream that has mirrors is not itself asked now, nil
// when it is: who has others to ask need not ask one that fails or limits us.
func (u *upstream) closedFor(s subject) *Error {
	if len(u.mirrors) == 0 {
		return nil
	}
	if why := u.limit.restingFor(s); why != nil {
		return why
	}
	return u.pulse.hung()
}

package registry

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// dockerHub is the name of Docker Hub in references. It is reached at another
// host, and its short names mean library/.
const dockerHub = "docker.io"

// canonicalRegistry gives the one name we keep of a registry with several.
func canonicalRegistry(name string) string {
	name = strings.ToLower(name)
	switch name {
	case "index.docker.io", "registry-1.docker.io":
		return dockerHub
	}
	return name
}

// UpstreamOptions says how one registry is reached. Name is required; the
// rest has a default.
type UpstreamOptions struct {
	Name string // as in references and in ns=: "docker.io", "127.0.0.1:5000"

	// URL is where the registry is: http or https, a host and perhaps a port,
	// nothing else. Default: the known one of a well-known registry. Any other
	// without one is a home: images are pushed to it, and are nowhere else. Of
	// the other options only Platforms means something to a home.
	URL string

	TagTTL time.Duration // how long a tag is answered without asking; default one minute
	// TagTTLs is the same for tags of a pattern: "v*", or with the repository
	// "library/*:latest" (path.Match). The longest pattern that fits counts.
	TagTTLs map[string]time.Duration
	// StaleMax is how old an answer may be that is given when upstream cannot
	// be asked. Default: any age.
	StaleMax time.Duration

	// Mirrors are other places for the same repositories, by digest: http or
	// https, a host, perhaps a port, and perhaps a path that stands before that
	// of a repository. They are asked before upstream, in order.
	Mirrors []string

	// The login, in one of the ways of [Login]. Without one docker's
	// config.json is looked up, and without a hit there the upstream is asked
	// anonymously.
	Username, PasswordFile     string
	CredentialHelper           string
	ClientID, ClientSecretFile string
	TokenURL, Scope            string
	// Accounts are logins for some repositories; the longest pattern that fits
	// counts, of two the first.
	Accounts []Account
	// TokenHosts are hosts, perhaps with a port, of token services that may be
	// shown the login though they are not upstream's own.
	TokenHosts []string

	// AllowanceReserve is what of upstream's rate limit is kept for what clients
	// wait for and is not cached.
	AllowanceReserve AllowanceReserve

	Access string // "", "open" or "proven": who may see what was got with a credential
	// GrantTTL is how long a caller's right is believed without asking, by
	// default five minutes; GrantGrace how long while upstream cannot be asked,
	// by default 24 hours.
	GrantTTL, GrantGrace time.Duration

	// Push, as [PushThrough], sends what is pushed on to the upstream.
	Push string
	// Sparse lets a home take images whose config or layers were not pushed to
	// it. What an upstream takes is for it to say.
	Sparse bool

	Platforms []string // what pull and pin fetch, and what is read ahead: "linux/amd64"; none: this machine's
	// NoReadAhead: the config and the layers of an image whose manifest was
	// asked for do not begin to flow before they are asked for too.
	NoReadAhead bool
	CAFile      string // PEM, trusted besides the system's
}

// WellKnown returns the public registries that are reachable without any
// settings. The caller may change what it gets.
func WellKnown() []UpstreamOptions {
	return []UpstreamOptions{
		{Name: dockerHub, URL: "https://registry-1.docker.io"},
		{Name: "gcr.io", URL: "https://gcr.io"},
		{Name: "ghcr.io", URL: "https://ghcr.io"},
		{Name: "mcr.microsoft.com", URL: "https://mcr.microsoft.com"},
		{Name: "nvcr.io", URL: "https://nvcr.io"},
		{Name: "public.ecr.aws", URL: "https://public.ecr.aws"},
		{Name: "quay.io", URL: "https://quay.io"},
		{Name: "registry.k8s.io", URL: "https://registry.k8s.io"},
	}
}

// routes finds the upstream of a registry by its name. A name is a key,
// never an address: without a route nothing is dialled.
type routes struct {
	byName map[string]*upstream
}

// newRoutes makes the upstreams: the well-known ones and the configured, which
// replace those of the same name. It needs no network.
func newRoutes(configured []UpstreamOptions, env upstreamEnv) (*routes, error) {
	options := make(map[string]UpstreamOptions)
	options[LocalHome] = UpstreamOptions{Name: LocalHome}
	for _, o := range WellKnown() {
		options[o.Name] = o
	}
	env.configured = func(host string) (UpstreamOptions, bool) {
		o, ok := options[canonicalRegistry(host)]
		return o, ok
	}
	seen := make(map[string]bool)
	for _, o := range configured {
		name := canonicalRegistry(o.Name)
		if seen[name] {
			return nil, fmt.Errorf("upstream %q is configured twice", name)
		}
		seen[name] = true
		if o.URL == "" {
			o.URL = options[name].URL
		}
		o.Name = name
		options[name] = o
	}
	r := &routes{byName: make(map[string]*upstream, len(options))}
	for name, o := range options {
		u, err := newRoute(o, env)
		if err != nil {
			r.close()
			return nil, err
		}
		r.byName[name] = u
	}
	return r, nil
}

// newRoute makes an upstream, or a home where there is no address.
func newRoute(o UpstreamOptions, env upstreamEnv) (*upstream, error) {
	if o.URL != "" && o.Name == LocalHome {
		return nil, fmt.Errorf("upstream %q: that is the name of the home for images that are pushed here, which has no url; give the upstream its host as a name", o.Name)
	}
	if o.URL != "" {
		return newUpstream(o, env)
	}
	if !isRegistryName(o.Name) {
		return nil, fmt.Errorf("home %q: not the name of a registry: %s, or a host with a dot, with a port, or localhost", o.Name, LocalHome)
	}
	return newHome(o, env), nil
}

// upstream finds the upstream of a registry. The error has [CodeNameUnknown]
// and says how to add one.
func (r *routes) upstream(registry string) (*upstream, error) {
	name := canonicalRegistry(registry)
	if u, ok := r.byName[name]; ok {
		return u, nil
	}
	return nil, &Error{Code: CodeNameUnknown, Reference: quoted(registry),
		Message: fmt.Sprintf("no upstream of this name; add [upstreams.%q] with its url to the settings, or serve --upstream %s=URL", name, name)}
}

// all returns the upstreams by name.
func (r *routes) all() []*upstream {
	all := make([]*upstream, 0, len(r.byName))
	for _, u := range r.byName {
		all = append(all, u)
	}
	slices.SortFunc(all, func(a, b *upstream) int { return strings.Compare(a.name, b.name) })
	return all
}

// close ends idle connections. What is being read goes on.
func (r *routes) close() {
	for _, u := range r.byName {
		u.close()
	}
}

package main

import (
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/imagecache/imagecache/registry"
)

// envMirror names mirrors as the flag does: NAME=URL,NAME=URL, in the order in which they are asked.
const envMirror = "IMAGECACHE_MIRROR"

// loginKeys are the settings of a login that tables of upstreams and of accounts have in common, besides those that are as old as upstreams.
func loginKeys() []upstreamKey {
	text := func(name string, field func(*registry.UpstreamOptions) *string) upstreamKey {
		return upstreamKey{name, false, setText(field), func(u registry.UpstreamOptions) string { return *field(&u) }}
	}
	path := func(name string, field func(*registry.UpstreamOptions) *string) upstreamKey {
		return upstreamKey{name, false, setPath(field), func(u registry.UpstreamOptions) string { return *field(&u) }}
	}
	return []upstreamKey{
		text("username", func(u *registry.UpstreamOptions) *string { return &u.Username }),
		path("password_file", func(u *registry.UpstreamOptions) *string { return &u.PasswordFile }),
		{"credential_helper", false, setCredentialHelper, func(u registry.UpstreamOptions) string { return u.CredentialHelper }},
		text("client_id", func(u *registry.UpstreamOptions) *string { return &u.ClientID }),
		path("client_secret_file", func(u *registry.UpstreamOptions) *string { return &u.ClientSecretFile }),
		text("token_url", func(u *registry.UpstreamOptions) *string { return &u.TokenURL }),
		text("token_scope", func(u *registry.UpstreamOptions) *string { return &u.Scope }),
	}
}

// setMirrors takes addresses, in the order in which they are asked.
func setMirrors(u *registry.UpstreamOptions, _ string, values []string) error {
	var mirrors []string
	for _, value := range values {
		if err := checkMirrorURL(value); err != nil {
			return err
		}
		mirror := strings.TrimRight(value, "/")
		if slices.Contains(mirrors, mirror) {
			return fmt.Errorf("%q stands here twice", value)
		}
		mirrors = append(mirrors, mirror)
	}
	u.Mirrors = mirrors
	return nil
}

// checkMirrorURL takes a scheme, a host, and perhaps a path that stands before that of a repository.
func checkMirrorURL(value string) error {
	if at := strings.LastIndexByte(value, '@'); at >= 0 {
		host, _, _ := strings.Cut(value[at+1:], "/")
		return fmt.Errorf("the url of a mirror holds a user: give its host a table of its own, [upstreams.%q], with username and password_file", host)
	}
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http"):
		return fmt.Errorf("%q is not a mirror's url: want https://host or https://host/path", value)
	case u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("%q has more than a scheme, a host and a path", value)
	case strings.HasPrefix(u.Path, "/v2/") || u.Path == "/v2":
		return fmt.Errorf("%q: leave /v2 out, it is put before the path", value)
	}
	return nil
}

// setTokenHosts takes hosts, perhaps with a port.
func setTokenHosts(u *registry.UpstreamOptions, _ string, values []string) error {
	for _, value := range values {
		if !registryName.MatchString(value) {
			return fmt.Errorf("%q is not a host: want one such as auth.example or auth.example:8443", value)
		}
	}
	u.TokenHosts = values
	return nil
}

// setAllowanceReserve takes a number of requests, or a part of the limit in percent.
func setAllowanceReserve(u *registry.UpstreamOptions, _ string, values []string) error {
	number, percent := strings.CutSuffix(values[0], "%")
	n, err := strconv.ParseUint(number, 10, 31)
	if err != nil || percent && n > 100 {
		return fmt.Errorf("%q is neither a number of requests nor a part of the limit: want one such as 20 or 10%%", values[0])
	}
	u.AllowanceReserve = registry.AllowanceReserve{Set: true, Requests: int64(n)}
	if percent {
		u.AllowanceReserve = registry.AllowanceReserve{Set: true, Fraction: float64(n) / 100}
	}
	return nil
}

func showAllowanceReserve(u registry.UpstreamOptions) string {
	switch r := u.AllowanceReserve; {
	case !r.Set:
		return "10%"
	case r.Fraction > 0:
		return fmt.Sprintf("%.0f%%", r.Fraction*100)
	default:
		return strconv.FormatInt(r.Requests, 10)
	}
}

// setAccountLeaf sets one key below [[upstreams."name".accounts]], of which at is the number, from 0.
func (s *Settings) setAccountLeaf(file string, path []string, at int, value any, from origin) error {
	name, key := path[1], path[3]
	if err := s.nameUpstream(name, from); err != nil {
		return err
	}
	if key == "password" || key == "client_secret" {
		return noSecretHere(key, from)
	}
	if value == nil {
		return fmt.Errorf("%s: %s: want a list of tables, as in [[upstreams.%q.accounts]]", from, dotted(path), name)
	}
	texts, err := textsOf(value, false)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", from, dotted(path), err)
	}
	u := s.Upstreams[name]
	for len(u.Accounts) <= at {
		u.Accounts = append(u.Accounts, registry.Account{})
	}
	if u.Accounts[at], err = setAccount(u.Accounts[at], key, filepath.Dir(file), texts, path, from); err != nil {
		return err
	}
	s.Upstreams[name] = u
	s.origins[accountKeyName(name, at, key)] = from
	return nil
}

// setAccount sets a key of an account, which has the keys of an upstream's login.
func setAccount(a registry.Account, key, base string, texts, path []string, from origin) (registry.Account, error) {
	if key == "repositories" {
		a.Repositories = texts[0]
		return a, nil
	}
	keys := loginKeys()
	i := slices.IndexFunc(keys, func(k upstreamKey) bool { return k.name == key })
	if i < 0 || len(path) > 4 {
		names := []string{"repositories"}
		for _, k := range keys {
			names = append(names, k.name)
		}
		return a, unknownKey(from, path, names)
	}
	var u registry.UpstreamOptions
	u.SetLogin(a.Login)
	if err := keys[i].set(&u, base, texts); err != nil {
		return a, fmt.Errorf("%s: %s: %w", from, dotted(path), err)
	}
	a.Login = u.Login()
	return a, nil
}

// accountKeyName is how a key of an account is shown: upstreams."a.example".accounts[0].username.
func accountKeyName(upstream string, at int, key string) string {
	return fmt.Sprintf("%s[%d].%s", upstreamKeyName(upstream, "accounts"), at, key)
}

// shownAccounts lists what is set of the accounts of an upstream.
func (s *Settings) shownAccounts(u registry.UpstreamOptions) []shownSetting {
	var list []shownSetting
	for at, a := range u.Accounts {
		name := accountKeyName(u.Name, at, "repositories")
		list = append(list, shownSetting{name, a.Repositories, s.origins[name]})
		var login registry.UpstreamOptions
		login.SetLogin(a.Login)
		for _, key := range loginKeys() {
			name := accountKeyName(u.Name, at, key.name)
			if value := key.show(login); value != "" {
				list = append(list, shownSetting{name, value, s.origins[name]})
			}
		}
	}
	return list
}

// checkLogins finds logins that are not whole.
func (s *Settings) checkLogins(u registry.UpstreamOptions) error {
	if err := u.Login().Check(); err != nil {
		return fmt.Errorf("%s: upstream %q: %w", s.upstreamOrigin(u.Name), u.Name, err)
	}
	for at, a := range u.Accounts {
		if err := a.Check(); err != nil {
			return fmt.Errorf("%s: upstream %q: %w", s.accountOrigin(u.Name, at), u.Name, err)
		}
	}
	return nil
}

// accountOrigin is where an account was first named.
func (s *Settings) accountOrigin(upstream string, at int) origin {
	keys := append([]upstreamKey{{name: "repositories"}}, loginKeys()...)
	for _, key := range keys {
		if from, ok := s.origins[accountKeyName(upstream, at, key.name)]; ok {
			return from
		}
	}
	return s.upstreamOrigin(upstream)
}

// setMirrorPairs takes NAME=URL as flags and the environment give it. Those of one source replace those of a weaker one.
func (s *Settings) setMirrorPairs(pairs []string, from origin) error {
	mirrors, order := map[string][]string{}, []string{}
	for _, pair := range pairs {
		name, address, found := strings.Cut(strings.TrimSpace(pair), "=")
		if !found || name == "" || address == "" {
			return fmt.Errorf("%s: %q is not a mirror: want NAME=URL, as in docker.io=https://mirror.example", from, withoutUser(pair))
		}
		if mirrors[name] == nil {
			order = append(order, name)
		}
		mirrors[name] = append(mirrors[name], address)
	}
	keys := upstreamKeys()
	key := keys[slices.IndexFunc(keys, func(k upstreamKey) bool { return k.name == "mirrors" })]
	for _, name := range order {
		if err := s.setUpstream(name, key, "", mirrors[name], from); err != nil {
			return err
		}
	}
	return nil
}

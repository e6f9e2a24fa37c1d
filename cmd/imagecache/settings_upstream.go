package main

import (
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"

	"github.com/imagecache/imagecache/registry"
)

// registryName is a registry's name as references hold it: a host, with a port or without.
var registryName = regexp.MustCompile(`^(\[[0-9a-fA-F:]+\]|[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?)(:[0-9]{1,5})?$`)

// upstreamKeyName is how a key of an upstream is shown: upstreams."docker.io".url.
func upstreamKeyName(upstream, key string) string {
	return fmt.Sprintf("upstreams.%q.%s", upstream, key)
}

// upstreamKey is one setting of an upstream. The value from a file is a string, or a list of them where list is true.
type upstreamKey struct {
	name string
	list bool
	set  func(u *registry.UpstreamOptions, base string, values []string) error // base: the folder that relative paths start from
	show func(registry.UpstreamOptions) string
}

func upstreamKeys() []upstreamKey {
	return slices.Concat([]upstreamKey{
		{"url", false, setUpstreamURL, func(u registry.UpstreamOptions) string { return u.URL }},
		{"mirrors", true, setMirrors, func(u registry.UpstreamOptions) string { return strings.Join(u.Mirrors, ", ") }},
		{"tag_ttl", false, setTagTTL, showTagTTL},
		{"tag_ttls", true, setTagTTLs, showTagTTLs},
		{"stale_max", false, setStaleMax, showStaleMax},
	}, loginKeys(), []upstreamKey{
		{"token_hosts", true, setTokenHosts, func(u registry.UpstreamOptions) string { return strings.Join(u.TokenHosts, ", ") }},
		{"allowance_reserve", false, setAllowanceReserve, showAllowanceReserve},
		{"access", false, setAccess, func(u registry.UpstreamOptions) string { return u.Access }},
		{"grant_ttl", false, setGrant(func(u *registry.UpstreamOptions) *time.Duration { return &u.GrantTTL }), func(u registry.UpstreamOptions) string { return showGrant(u.GrantTTL, defaultGrantTTL) }},
		{"grant_grace", false, setGrant(func(u *registry.UpstreamOptions) *time.Duration { return &u.GrantGrace }), func(u registry.UpstreamOptions) string { return showGrant(u.GrantGrace, defaultGrantGrace) }},
		{"platforms", true, setPlatforms, func(u registry.UpstreamOptions) string { return strings.Join(u.Platforms, ", ") }},
		{"read_ahead", false, setReadAhead, showReadAhead},
		{"push", false, setPush, func(u registry.UpstreamOptions) string { return u.Push }},
		{"sparse", false, setSparse, func(u registry.UpstreamOptions) string { return onOrOff(u.Sparse) }},
		{"ca_file", false, setPath(func(u *registry.UpstreamOptions) *string { return &u.CAFile }), func(u registry.UpstreamOptions) string { return u.CAFile }},
	})
}

func setUpstreamURL(u *registry.UpstreamOptions, _ string, values []string) error {
	if err := checkURL(values[0]); err != nil {
		return err
	}
	u.URL = strings.TrimRight(values[0], "/")
	return nil
}

func setTagTTL(u *registry.UpstreamOptions, _ string, values []string) error {
	d, err := parseDuration(values[0])
	// Zero is the registry's word for its default. Who writes 0s wants a tag asked for each time: the shortest life there is.
	u.TagTTL = max(d, time.Nanosecond)
	return err
}

func showTagTTL(u registry.UpstreamOptions) string {
	switch u.TagTTL {
	case 0:
		return defaultTagTTL.String()
	case time.Nanosecond:
		return "0s"
	}
	return u.TagTTL.String()
}

// setTagTTLs takes "v*=24h": a pattern of tags, and how long those that fit are answered without asking.
func setTagTTLs(u *registry.UpstreamOptions, _ string, values []string) error {
	ttls := map[string]time.Duration{}
	for _, value := range values {
		pattern, duration, found := strings.Cut(value, "=")
		if _, err := path.Match(pattern, ""); !found || pattern == "" || err != nil {
			return fmt.Errorf("%q is not a pattern of tags with a duration: want one such as v*=24h or library/*:latest=10s", value)
		}
		d, err := parseDuration(duration)
		if err != nil {
			return fmt.Errorf("%q: %w", value, err)
		}
		ttls[pattern] = d
	}
	u.TagTTLs = ttls
	return nil
}

func showTagTTLs(u registry.UpstreamOptions) string {
	var shown []string
	for _, pattern := range slices.Sorted(maps.Keys(u.TagTTLs)) {
		shown = append(shown, pattern+"="+u.TagTTLs[pattern].String())
	}
	return strings.Join(shown, ", ")
}

// setStaleMax takes how old a stale answer may be. As with tag_ttl, who writes 0s means it: none is given.
func setStaleMax(u *registry.UpstreamOptions, _ string, values []string) error {
	d, err := parseDuration(values[0])
	u.StaleMax = max(d, time.Nanosecond)
	return err
}

func showStaleMax(u registry.UpstreamOptions) string {
	switch u.StaleMax {
	case 0:
		return ""
	case time.Nanosecond:
		return "0s"
	}
	return u.StaleMax.String()
}

func setText(field func(*registry.UpstreamOptions) *string) func(*registry.UpstreamOptions, string, []string) error {
	return func(u *registry.UpstreamOptions, _ string, values []string) error {
		if values[0] == "" {
			return fmt.Errorf("is empty")
		}
		*field(u) = values[0]
		return nil
	}
}

func setPath(field func(*registry.UpstreamOptions) *string) func(*registry.UpstreamOptions, string, []string) error {
	return func(u *registry.UpstreamOptions, base string, values []string) error {
		if values[0] == "" {
			return fmt.Errorf("is empty: want a file")
		}
		file := values[0]
		if !filepath.IsAbs(file) {
			file = filepath.Join(base, file)
		}
		*field(u) = file
		return nil
	}
}

func setCredentialHelper(u *registry.UpstreamOptions, _ string, values []string) error {
	name := values[0]
	if name == "" || strings.ContainsAny(name, "/ \t\n") {
		return fmt.Errorf("%q is not a credential helper: want the name after docker-credential-, as in ecr-login", name)
	}
	u.CredentialHelper = strings.TrimPrefix(name, "docker-credential-")
	return nil
}

func setAccess(u *registry.UpstreamOptions, _ string, values []string) error {
	if values[0] != accessOpen && values[0] != accessProven {
		return fmt.Errorf("%q is not a rule of access: want open or proven", values[0])
	}
	u.Access = values[0]
	return nil
}

// setGrant takes how long a right that a caller has shown is believed. As with tag_ttl, who writes 0s means it.
func setGrant(field func(*registry.UpstreamOptions) *time.Duration) func(*registry.UpstreamOptions, string, []string) error {
	return func(u *registry.UpstreamOptions, _ string, values []string) error {
		d, err := parseDuration(values[0])
		*field(u) = max(d, time.Nanosecond)
		return err
	}
}

// What the registry takes for the two where nothing is set.
const (
	defaultGrantTTL   = 5 * time.Minute
	defaultGrantGrace = 24 * time.Hour
)

func showGrant(d, otherwise time.Duration) string {
	switch d {
	case 0:
		return otherwise.String()
	case time.Nanosecond:
		return "0s"
	}
	return d.String()
}

func setPlatforms(u *registry.UpstreamOptions, _ string, values []string) error {
	if err := checkPlatforms(values); err != nil {
		return err
	}
	u.Platforms = values
	return nil
}

func setPush(u *registry.UpstreamOptions, _ string, values []string) error {
	if values[0] != registry.PushThrough {
		return fmt.Errorf("%q is no way to push: want through, or nothing", values[0])
	}
	u.Push = values[0]
	return nil
}

func setReadAhead(u *registry.UpstreamOptions, _ string, values []string) error {
	on, err := parseOnOff(values[0])
	u.NoReadAhead = !on
	return err
}

func showReadAhead(u registry.UpstreamOptions) string { return onOrOff(!u.NoReadAhead) }

func setSparse(u *registry.UpstreamOptions, _ string, values []string) (err error) {
	u.Sparse, err = parseOnOff(values[0])
	return err
}

func parseOnOff(value string) (on bool, err error) {
	if value != "on" && value != "off" {
		return false, fmt.Errorf("%q is neither on nor off", value)
	}
	return value == "on", nil
}

func onOrOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// checkPlatforms takes "os/architecture[/variant]", or "all" alone.
func checkPlatforms(values []string) error {
	for _, value := range values {
		if value == "all" && len(values) == 1 {
			continue
		}
		if _, err := platforms.Parse(value); err != nil || !strings.Contains(value, "/") {
			return fmt.Errorf("%q is not a platform: want one such as linux/amd64 or linux/arm/v7, or all alone", value)
		}
	}
	return nil
}

// setUpstream sets one key of an upstream and remembers where it came from.
func (s *Settings) setUpstream(name string, key upstreamKey, base string, values []string, from origin) error {
	if err := s.nameUpstream(name, from); err != nil {
		return err
	}
	u := s.Upstreams[name]
	if err := key.set(&u, base, values); err != nil {
		return fmt.Errorf("%s: %s: %w", from, upstreamKeyName(name, key.name), err)
	}
	s.Upstreams[name] = u
	s.origins[upstreamKeyName(name, key.name)] = from
	return nil
}

// nameUpstream makes an upstream one that is configured.
func (s *Settings) nameUpstream(name string, from origin) error {
	if !registryName.MatchString(name) {
		return fmt.Errorf("%s: %q is not a registry's name: want a host as in references, such as docker.io or 10.0.0.7:5000", from, name)
	}
	u := s.Upstreams[name]
	u.Name = name
	s.Upstreams[name] = u
	return nil
}

// withoutUser is an address as it may be shown: what stands before an @ may hold a password.
func withoutUser(address string) string {
	if at := strings.LastIndexByte(address, '@'); at >= 0 {
		return "…" + address[at:]
	}
	return address
}

// setUpstreamPair takes NAME=URL, as flags and the environment give it.
func (s *Settings) setUpstreamPair(pair string, from origin) error {
	name, url, found := strings.Cut(pair, "=")
	if !found || name == "" || url == "" {
		return fmt.Errorf("%s: %q is not an upstream: want NAME=URL, as in docker.io=https://registry-1.docker.io", from, withoutUser(pair))
	}
	return s.setUpstream(strings.TrimSpace(name), upstreamKeys()[0], "", []string{strings.TrimSpace(url)}, from)
}

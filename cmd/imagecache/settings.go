package main

import (
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry"
)

const (
	defaultConfigFile   = "/etc/imagecache/config.toml"
	defaultListen       = "127.0.0.1:5050"
	defaultTagTTL       = time.Minute
	defaultStaleWait    = time.Second      // a cached answer is worth more than a slow upstream's
	defaultStallAfter   = 3 * time.Second  // a registry that sends at all sends something every second
	defaultDrainTimeout = 30 * time.Second // what Kubernetes and systemd give a service to end, or less
)

// Access rules, as registry.UpstreamOptions.Access spells them.
const (
	accessOpen   = "open"
	accessProven = "proven"
)

// Settings are what the daemon runs with. They are put together from defaults, the file, the environment and flags, each stronger than
// the one before, and remember where every value came from.
type Settings struct {
	Listen       string // host:port of the mirror
	Admin        string // unix:///path or http://host:port
	AdminGroup   string // whose members may connect to that socket; "": its user alone
	Root         string // folder of the store, absolute
	LogFormat    string // text or json
	LogLevel     slog.Level
	StaleWait    time.Duration
	StallAfter   time.Duration // of a transfer
	DrainTimeout time.Duration
	Lockfile     string // of pins, followed as it changes; "": none
	MaxSize      int64  // bytes that blobs may take; 0: as many as MinFree leaves
	MinFree      layerstore.Reserve
	MaxAge       time.Duration // of images that nobody uses; 0: for ever
	VerifyAfter  time.Duration // the age of a proof that does not count any more; 0: every proof counts
	ScrubRate    int64         // bytes a second; 0: no background scrub
	Snapshotter  SnapshotterSettings
	TLS          TLSSettings
	Access       AccessSettings
	Upstreams    map[string]registry.UpstreamOptions // by name, those that were configured; the well-known ones come on top

	origins map[string]origin // by key, as in "listen" or `upstreams."docker.io".url`
}

// origin says where a value came from: "default", "/etc/imagecache/config.toml:12", "IMAGECACHE_LISTEN" or "--listen".
type origin string

const originDefault origin = "default"

// Warning is something about the settings that the daemon's log should tell, without refusing to run.
type Warning string

// scalarKey is one setting that holds one value, whatever source it comes from.
type scalarKey struct {
	name  string // in the file, with its table: listen, store.max_size
	usage string
	set   func(*Settings, string) error
	show  func(*Settings) string
}

// env is the variable of a key: IMAGECACHE_LOG_FORMAT, IMAGECACHE_STORE_MAX_SIZE.
func (k scalarKey) env() string {
	return "IMAGECACHE_" + strings.ToUpper(strings.ReplaceAll(k.name, ".", "_"))
}

// flag is the flag of a key, without its dashes: log-format, store-max-size.
func (k scalarKey) flag() string {
	if k.name == snapshotterAddress { // it is what turns the table on
		return snapshotterTable
	}
	return strings.NewReplacer("_", "-", ".", "-").Replace(k.name)
}

// scalarKeys lists the settings that hold one value, in the order in which they are shown.
func scalarKeys() []scalarKey {
	return append([]scalarKey{
		{"listen", "`ADDRESS` of the mirror, host:port", setListen, func(s *Settings) string { return s.Listen }},
		{"admin", "", setAdmin, func(s *Settings) string { return s.Admin }},
		{"admin_group", "`GROUP` whose members may administrate over the unix socket, too", setAdminGroup, func(s *Settings) string { return s.AdminGroup }},
		{"root", "`FOLDER` of the store", setRoot, func(s *Settings) string { return s.Root }},
		{"log_format", "how to log: text or json", setLogFormat, func(s *Settings) string { return s.LogFormat }},
		{"log_level", "what to log: debug, info, warn or error", setLogLevel, func(s *Settings) string { return strings.ToLower(s.LogLevel.String()) }},
		{"stale_wait", "how long a cached tag waits for its upstream's word, as in 1s",
			durationSetter(func(s *Settings) *time.Duration { return &s.StaleWait }), func(s *Settings) string { return s.StaleWait.String() }},
		{"stall_after", "how long a transfer may be silent before its upstream is asked for the rest, as in 3s",
			setStallAfter, func(s *Settings) string { return s.StallAfter.String() }},
		{"drain_timeout", "how long answers under way may take to end on SIGTERM, as in 30s",
			durationSetter(func(s *Settings) *time.Duration { return &s.DrainTimeout }), func(s *Settings) string { return s.DrainTimeout.String() }},
		{"lockfile", "lockfile of pins to follow as it changes, a `FILE`", setLockfile, func(s *Settings) string { return s.Lockfile }},
	}, slices.Concat(storeKeys(), snapshotterKeys(), accessKeys())...)
}

func setListen(s *Settings, value string) error {
	if _, _, err := splitHostPort(value); err != nil {
		return err
	}
	s.Listen = value
	return nil
}

// splitHostPort takes "127.0.0.1:5050", "[::1]:5050" or ":5050" apart, and refuses ports that are not numbers.
func splitHostPort(address string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(address)
	if err != nil {
		return "", "", fmt.Errorf("%q is not an address: want host:port, as in %s", address, defaultListen)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", "", fmt.Errorf("%q has no port between 0 and 65535: want host:port, as in %s", address, defaultListen)
	}
	return host, port, nil
}

func setAdmin(s *Settings, value string) error {
	if _, err := parseAdminAddress(value); err != nil {
		return err
	}
	s.Admin = value
	return nil
}

func setRoot(s *Settings, value string) error {
	if value == "" {
		return fmt.Errorf("is empty: want a folder")
	}
	root, err := filepath.Abs(value)
	if err != nil {
		return fmt.Errorf("%q: %w", value, err)
	}
	s.Root = root
	return nil
}

func setLogFormat(s *Settings, value string) error {
	if value != "text" && value != "json" {
		return fmt.Errorf("%q is not a form of log: want text or json", value)
	}
	s.LogFormat = value
	return nil
}

func setLogLevel(s *Settings, value string) error {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	level, known := levels[strings.ToLower(value)]
	if !known {
		return fmt.Errorf("%q is not a level: want debug, info, warn or error", value)
	}
	s.LogLevel = level
	return nil
}

func durationSetter(field func(*Settings) *time.Duration) func(*Settings, string) error {
	return func(s *Settings, value string) error {
		d, err := parseDuration(value)
		if err != nil {
			return err
		}
		*field(s) = d
		return nil
	}
}

// leastStall is the shortest silence that tells something: a lost packet may cost more than half of it.
const leastStall = 500 * time.Millisecond

func setStallAfter(s *Settings, value string) error {
	d, err := parseDuration(value)
	if err == nil && d < leastStall {
		return fmt.Errorf("%q is shorter than a pause of any network: want %s or more", value, leastStall)
	}
	if err == nil {
		s.StallAfter = d
	}
	return err
}

// parseDuration takes "1m30s". A number without a unit is refused: nobody knows whether it means seconds.
func parseDuration(value string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a duration: want one such as 1s, 90s or 5m", value)
	}
	return d, nil
}

// openByDefault tells whether those who can reach the mirror are this machine's own: only then may they see what was fetched with a
// secret without having shown a right to it.
func (s *Settings) openByDefault() bool {
	host, _, err := splitHostPort(s.Listen)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	return net.ParseIP(host).IsLoopback()
}

// access is the rule in force for an upstream.
func (s *Settings) access(u registry.UpstreamOptions) string {
	if u.Access != "" {
		return u.Access
	}
	if s.openByDefault() {
		return accessOpen
	}
	return accessProven
}

// configured lists the upstreams that were configured, by name.
func (s *Settings) configured() []registry.UpstreamOptions {
	list := make([]registry.UpstreamOptions, 0, len(s.Upstreams))
	for _, name := range slices.Sorted(maps.Keys(s.Upstreams)) {
		list = append(list, s.Upstreams[name])
	}
	return list
}

// settle checks what no single value shows, once all sources have spoken.
func (s *Settings) settle() error {
	for name, u := range s.Upstreams {
		if u.URL == "" {
			u.URL = wellKnownURL(name)
		}
		if err := checkUpstream(u); err != nil {
			return fmt.Errorf("%s: upstream %q %w", s.upstreamOrigin(name), name, err)
		}
		if err := s.checkLogins(u); err != nil {
			return err
		}
		s.Upstreams[name] = u
	}
	return nil
}

func checkUpstream(u registry.UpstreamOptions) error {
	switch {
	case u.URL == "" && !isHome(u):
		return fmt.Errorf(`has no url, so it would be a home that is pushed to, and what else is said of it is for an upstream: add url = "https://…", or take the rest out`)
	case u.URL != "" && u.Sparse:
		return fmt.Errorf("is no home: sparse is for homes, and what an upstream takes is for it to say")
	case u.PasswordFile != "" && u.CredentialHelper != "":
		return fmt.Errorf("has both a password_file and a credential_helper: want one of them")
	case u.Username != "" && u.PasswordFile == "" && u.ClientID == "":
		return fmt.Errorf("has a username but no password_file")
	case u.PasswordFile != "" && u.Username == "":
		return fmt.Errorf("has a password_file but no username")
	case u.CAFile != "" && strings.HasPrefix(u.URL, "http://"):
		return fmt.Errorf("has a ca_file but speaks plain http")
	}
	return nil
}

// isHome reports whether nothing is said of a registry that only an upstream has.
func isHome(u registry.UpstreamOptions) bool {
	return reflect.DeepEqual(u, registry.UpstreamOptions{Name: u.Name, Platforms: u.Platforms, Sparse: u.Sparse})
}

// upstreamOrigin is where an upstream was first named.
func (s *Settings) upstreamOrigin(name string) origin {
	prefix := upstreamKeyName(name, "")
	for _, key := range slices.Sorted(maps.Keys(s.origins)) {
		if strings.HasPrefix(key, prefix) {
			return s.origins[key]
		}
	}
	return originDefault
}

// wellKnownURL is where a public registry answers, or empty.
func wellKnownURL(name string) string {
	for _, u := range registry.WellKnown() {
		if u.Name == name {
			return u.URL
		}
	}
	return ""
}

// checkURL takes scheme and host only: everything after them is the protocol's business.
func checkURL(value string) error {
	if strings.Contains(value, "@") { // however it is written: what is not shown cannot be a password
		return fmt.Errorf("url holds a user: name it with username and password_file")
	}
	u, err := url.Parse(value)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return fmt.Errorf("%q is not an upstream's url: want https://host or http://host:port", value)
	}
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%q has more than a scheme and a host", value)
	}
	return nil
}

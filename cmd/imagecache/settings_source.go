package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry"
)

// settingsFlags are the flags of the commands that put settings together.
type settingsFlags struct {
	values    map[string]*string // by key
	upstreams []string
	mirrors   []string
}

// addSettingsFlags gives a command a flag for every setting. admin and config are flags of every command already.
func addSettingsFlags(cmd *cobra.Command) *settingsFlags {
	f := &settingsFlags{values: map[string]*string{}}
	for _, key := range scalarKeys() {
		if key.name == "admin" {
			continue
		}
		value := new(string)
		cmd.Flags().StringVar(value, key.flag(), "", fmt.Sprintf("%s (%s)", key.usage, key.env()))
		f.values[key.name] = value
	}
	cmd.Flags().StringArrayVar(&f.upstreams, "upstream", nil,
		"a registry by its name in references, `NAME=URL`; may be repeated ("+envUpstream+")")
	cmd.Flags().StringArrayVar(&f.mirrors, "mirror", nil,
		"a mirror that is asked before a registry, `NAME=URL`; may be repeated, in order ("+envMirror+")")
	return f
}

// loadSettings puts the settings together: default < file < environment < flag.
func (c *cli) loadSettings(cmd *cobra.Command, flags *settingsFlags) (*Settings, []Warning, error) {
	s := c.defaultSettings()
	path, err := c.settingsFile(cmd)
	if err != nil {
		return nil, nil, err
	}
	if path != "" {
		if err := s.readFile(path); err != nil {
			return nil, nil, err
		}
	}
	warnings, err := s.readEnvironment(c.environ)
	if err != nil {
		return nil, warnings, err
	}
	if err := s.readFlags(cmd, flags, c.admin); err != nil {
		return nil, warnings, &usageError{problem: err.Error(), hint: fmt.Sprintf("see %q", cmd.CommandPath()+" --help")}
	}
	if err := s.settle(); err != nil {
		return s, warnings, err
	}
	return s, append(warnings, s.openSecrets()...), nil
}

// readFlags lays the flags that were given over what is there.
func (s *Settings) readFlags(cmd *cobra.Command, flags *settingsFlags, admin string) error {
	for _, key := range scalarKeys() {
		if !cmd.Flags().Changed(key.flag()) {
			continue
		}
		value := admin
		if key.name != "admin" {
			if flags.values[key.name] == nil { // a flag of the command's own, which has the same name
				continue
			}
			value = *flags.values[key.name]
		}
		if err := s.setScalar(key, value, origin("--"+key.flag())); err != nil {
			return err
		}
	}
	for _, pair := range flags.upstreams {
		if err := s.setUpstreamPair(pair, "--upstream"); err != nil {
			return err
		}
	}
	return s.setMirrorPairs(flags.mirrors, "--mirror")
}

// settingsFile is the file to read, or "" when there is none. One that was asked for must be there.
func (c *cli) settingsFile(cmd *cobra.Command) (string, error) {
	path := c.configFile
	if path == "" && cmd.Flags().Changed("config") {
		return "", wrongUse(cmd, "--config is empty: want a file")
	}
	if path == "" {
		path = c.getenv(envConfig)
	}
	if path != "" {
		return filepath.Abs(path)
	}
	if _, err := os.Stat(c.systemFile); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return c.systemFile, nil
}

// defaultSettings are those of a daemon that nobody has told anything.
func (c *cli) defaultSettings() *Settings {
	s := &Settings{
		Listen:       defaultListen,
		Admin:        unixScheme + filepath.Join(c.runtimeFolder(), "imagecache.sock"),
		Root:         c.dataFolder(),
		LogFormat:    "text",
		StaleWait:    defaultStaleWait,
		StallAfter:   defaultStallAfter,
		DrainTimeout: defaultDrainTimeout,
		MinFree:      layerstore.Reserve{Fraction: defaultMinFree},
		VerifyAfter:  defaultVerifyAfter,
		ScrubRate:    defaultScrubRate,
		Snapshotter:  defaultSnapshotter(),
		Upstreams:    map[string]registry.UpstreamOptions{},
		origins:      map[string]origin{},
	}
	for _, key := range scalarKeys() {
		s.origins[key.name] = originDefault
	}
	return s
}

// dataFolder is the default root: the system's for the system's user, else the user's own (XDG base directory specification).
func (c *cli) dataFolder() string {
	if c.uid == 0 {
		return "/var/lib/imagecache"
	}
	data := c.getenv("XDG_DATA_HOME")
	if !filepath.IsAbs(data) {
		data = filepath.Join(c.getenv("HOME"), ".local", "share")
	}
	return filepath.Join(data, "imagecache")
}

// runtimeFolder is where the administration socket stands by default. Without a runtime folder of the session it is one below the
// temporary folder, which others may have made before us: whoever uses it checks its owner (checkOwnFolder).
func (c *cli) runtimeFolder() string {
	if c.uid == 0 {
		return "/run/imagecache"
	}
	if dir := c.getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "imagecache")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("imagecache-%d", c.uid))
}

// adminAddress is where the daemon is, for the commands that ask it: the flag, else the environment, else the file, else the default.
// A file that cannot be read or understood is the daemon's trouble, not that of a command which needs one line of it.
func (c *cli) adminAddress(cmd *cobra.Command) (adminAddress, error) {
	if cmd.Flags().Changed("admin") {
		address, err := parseClientAddress(c.admin)
		if err != nil {
			return adminAddress{}, wrongUse(cmd, "--admin: %s", err)
		}
		return address, nil
	}
	if value := c.getenv(envAdmin); value != "" {
		address, err := parseClientAddress(value)
		if err != nil {
			return adminAddress{}, wrongUse(cmd, "%s: %s", envAdmin, err)
		}
		return address, nil
	}
	s := c.defaultSettings()
	if path, err := c.settingsFile(cmd); err == nil && path != "" {
		fromFile := c.defaultSettings()
		if fromFile.readFile(path) == nil {
			s = fromFile
		}
	}
	if folder := c.runtimeFolder(); s.origins["admin"] == originDefault && filepath.Dir(folder) == filepath.Clean(os.TempDir()) && exists(folder) {
		if err := checkOwnFolder(folder, c.uid); err != nil {
			return adminAddress{}, fmt.Errorf("not asking whoever listens at %s: %w", s.Admin, err)
		}
	}
	return parseAdminAddress(s.Admin)
}

// unixScheme begins the address of a unix socket.
const unixScheme = "unix://"

// trimUnix gives the path of a unix address.
func trimUnix(address string) (path string, isUnix bool) {
	return strings.CutPrefix(address, unixScheme)
}

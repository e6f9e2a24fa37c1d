package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/registry"
)

func (c *cli) configCommand() *cobra.Command {
	var form outputForm
	var flags *settingsFlags
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show the settings in force, and where each came from",
		Long: `Show the settings that "imagecache serve" would run with here, and where each came from: the
default, a line of the file, a variable of the environment, or a flag. Each is stronger than the one before.`,
		Example: "  imagecache config\n  imagecache config --config ./config.toml -o json\n  IMAGECACHE_LISTEN=127.0.0.1:6000 imagecache config",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, warnings, err := c.loadSettings(cmd, flags)
			for _, warning := range warnings {
				fmt.Fprintf(c.err, "imagecache: warning: %s\n", warning)
			}
			if err != nil {
				return err
			}
			if err := settings.check(); err != nil {
				return err
			}
			return c.printSettings(settings, form)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags = addSettingsFlags(cmd)
	addOutputFlag(cmd, &form)
	return cmd
}

// shownSetting is one line of "imagecache config".
type shownSetting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin origin `json:"origin"`
}

func (c *cli) printSettings(s *Settings, form outputForm) error {
	shown := s.shown()
	if form == formJSON {
		return printJSON(c.out, map[string][]shownSetting{"settings": shown})
	}
	t := newTable(c.out, "KEY", "VALUE", "FROM")
	for _, setting := range shown {
		for _, value := range setting.lines() {
			t.row(setting.Key, value, string(setting.Origin))
		}
	}
	return t.flush()
}

// lines are the values of a list, each on a line of its own so that a person can read them.
func (s shownSetting) lines() []string {
	if !slices.Contains(listKeys, s.Key) || s.Value == "" {
		return []string{s.Value}
	}
	return splitList(s.Value)
}

// shown lists every setting in force, the well-known upstreams included.
func (s *Settings) shown() []shownSetting {
	var list []shownSetting
	for _, key := range scalarKeys() {
		list = append(list, shownSetting{key.name, key.show(s), s.origins[key.name]})
	}
	for _, u := range registry.WellKnown() {
		if _, replaced := s.Upstreams[u.Name]; !replaced {
			list = append(list, s.shownUpstream(u)...)
		}
	}
	for _, u := range s.configured() {
		list = append(list, s.shownUpstream(u)...)
	}
	return list
}

// shownUpstream lists what is set of one upstream, and the rule of access, which depends on where we listen.
func (s *Settings) shownUpstream(u registry.UpstreamOptions) []shownSetting {
	var list []shownSetting
	for _, key := range upstreamKeys() {
		name := upstreamKeyName(u.Name, key.name)
		from, set := s.origins[name]
		if !set {
			from = originDefault
		}
		value := key.show(u)
		if key.name == "access" {
			value = s.access(u)
		}
		if value != "" {
			list = append(list, shownSetting{name, value, from})
		}
	}
	return append(list, s.shownAccounts(u)...)
}

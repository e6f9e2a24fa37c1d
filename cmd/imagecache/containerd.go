package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"

	"github.com/spf13/cobra"
)

const (
	defaultConfigPath       = "/etc/containerd/certs.d"
	defaultContainerdConfig = "/etc/containerd/config.toml"
	defaultMirror           = "http://" + defaultListen
)

func (c *cli) containerdCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "containerd",
		Short: "Let containerd pull through this cache",
		Long: `Let containerd pull through this cache: write the hosts.toml that names it as a mirror, take it
away again, or tell what containerd would do for a reference.`,
		Example: "  imagecache containerd install\n  imagecache containerd check docker.io/library/alpine:3.22\n  imagecache containerd uninstall",
		Args:    cobra.ArbitraryArgs,
		RunE:    runGroup,
	}
	cmd.AddCommand(c.containerdInstallCommand(), c.containerdUninstallCommand(), c.containerdCheckCommand())
	return cmd
}

// addConfigPathFlag gives a command --config-path, made absolute when it is read by absoluteFolder.
func addConfigPathFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVar(path, "config-path", defaultConfigPath, "containerd's `FOLDER` of hosts, its config_path")
	_ = cmd.MarkFlagDirname("config-path")
}

func absoluteFolder(cmd *cobra.Command, path string) (string, error) {
	if path == "" {
		return "", wrongUse(cmd, "--config-path is empty: want a folder")
	}
	return filepath.Abs(path)
}

// checkRegistries refuses names that would leave the folder or mean another file.
func checkRegistries(cmd *cobra.Command, names []string) error {
	for _, name := range names {
		if !registryName.MatchString(name) {
			return wrongUse(cmd, "--registry %q is not a registry's name: want a host as in references, such as docker.io or 10.0.0.7:5000", name)
		}
	}
	return nil
}

// asRoot says what to do about a folder that is not ours to write.
func asRoot(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return &hintedError{err, "containerd's settings belong to root: run this as root"}
	}
	return err
}

// confirm asks a question that only a clear yes answers with yes.
func (c *cli) confirm(question string) (bool, error) {
	fmt.Fprintf(c.err, "%s [y/N] ", question)
	var answer string
	if _, err := fmt.Fscanln(c.in, &answer); err != nil && answer == "" {
		fmt.Fprintln(c.err)
		return false, nil
	}
	return answer == "y" || answer == "Y" || answer == "yes", nil
}

// agreed finds out whether changes that were shown may be made: --yes says so, or the person at the terminal.
func (c *cli) agreed(yes bool) (bool, error) {
	if yes {
		return true, nil
	}
	if !c.asks {
		return false, &hintedError{errors.New("nothing was changed: nobody is here to ask"), "add --yes to make these changes"}
	}
	return c.confirm("Make these changes?")
}

// plannedChange is one file that install or uninstall means to change.
type plannedChange struct {
	File       string `json:"file"`
	Difference string `json:"difference"`
	apply      func() error
}

// changeReport is what install and uninstall print as JSON.
type changeReport struct {
	Changes []plannedChange `json:"changes"`
	Changed bool            `json:"changed"` // made, not only shown
	Notes   []string        `json:"notes"`
}

// carryOut shows the changes, asks, and makes them.
func (c *cli) carryOut(report *changeReport, form outputForm, yes, dryRun bool) error {
	if form == formTable {
		for _, change := range report.Changes {
			fmt.Fprintln(c.out, change.Difference)
		}
	}
	if len(report.Changes) > 0 && !dryRun {
		agreed, err := c.agreed(yes)
		if err != nil {
			return err
		}
		if !agreed {
			return errors.New("nothing was changed")
		}
		for _, change := range report.Changes {
			if err := change.apply(); err != nil {
				return asRoot(err)
			}
		}
		report.Changed = true
	}
	if form == formJSON {
		return printJSON(c.out, report)
	}
	for _, change := range report.Changes {
		fmt.Fprintf(c.out, "%s %s\n", changeWord(report.Changed), change.File)
	}
	for _, note := range report.Notes {
		fmt.Fprintf(c.out, "note: %s\n", note)
	}
	return nil
}

func changeWord(done bool) string {
	if done {
		return "changed"
	}
	return "would change"
}

const mirrorUsage = "`URL` where containerd finds this cache (default: http:// and the listen address of the settings)"

// findMirror fills in where the daemon listens, as its settings say, when
// --mirror was not given.
func (c *cli) findMirror(cmd *cobra.Command, mirror *string) error {
	if *mirror != "" {
		return nil
	}
	settings, _, err := c.loadSettings(cmd, &settingsFlags{})
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(settings.Listen)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1" // it listens everywhere, and containerd is here
	}
	*mirror = "http://" + net.JoinHostPort(host, port)
	return nil
}

package main

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// installOptions are the flags of "containerd install".
type installOptions struct {
	configPath       string
	containerdConfig string
	registries       []string
	mirror           string
	dialTimeout      time.Duration
	snapshotter      bool
	socket           string
	yes, dryRun      bool
	form             outputForm
}

func (c *cli) containerdInstallCommand() *cobra.Command {
	var o installOptions
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Name this cache as containerd's mirror",
		Long: `Name this cache as a mirror in containerd's hosts.toml, for every registry or for named ones.

What will change is shown first. A hosts.toml that is there is kept: this cache comes first in it, and
"imagecache containerd uninstall" puts back exactly what stood there. The dial timeout is short, so
that a pull goes on to the registry at once while imagecache is not running.

containerd reads hosts.toml for each pull: only its own config.toml needs a restart. Where that does
not name the folder yet, the lines to add are shown; they are not written.

--snapshotter also writes config.toml: it names this cache as a snapshotter, for the transfer service
and for Kubernetes, so that layers that are cached are neither fetched nor unpacked. Everything else in
it stays as it is, comments too, and uninstall puts it back.`,
		Example: `  imagecache containerd install --dry-run
  imagecache containerd install --yes
  imagecache containerd install --registry docker.io --registry 10.0.0.7:5000
  imagecache containerd install --snapshotter`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.containerdInstall(cmd, o)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	addConfigPathFlag(cmd, &o.configPath)
	flags := cmd.Flags()
	flags.StringVar(&o.containerdConfig, "containerd-config", defaultContainerdConfig, "containerd's settings `FILE`, which is read, and written with --snapshotter")
	flags.StringArrayVar(&o.registries, "registry", nil, "only for this registry, by its `NAME` in references; may be repeated")
	flags.StringVar(&o.mirror, "mirror", "", mirrorUsage)
	flags.DurationVar(&o.dialTimeout, "dial-timeout", time.Second, "how long containerd may try to reach this cache")
	flags.BoolVar(&o.snapshotter, "snapshotter", false, "name this cache as a snapshotter too")
	flags.StringVar(&o.socket, "snapshotter-address", "", "`SOCKET` of the snapshotter (default: that of the settings, or "+defaultSnapshotterSocket+")")
	flags.BoolVarP(&o.yes, "yes", "y", false, "make the changes without asking")
	flags.BoolVar(&o.dryRun, "dry-run", false, "show the changes and make none")
	addOutputFlag(cmd, &o.form)
	return cmd
}

func (c *cli) containerdInstall(cmd *cobra.Command, o installOptions) error {
	if err := c.findMirror(cmd, &o.mirror); err != nil {
		return err
	}
	mirror, err := checkInstall(cmd, &o)
	if err != nil {
		return err
	}
	report := &changeReport{Changes: []plannedChange{}, Notes: []string{}}
	targets := o.registries
	if len(targets) == 0 {
		targets = []string{""}
	}
	for _, registry := range targets {
		if err := planInstall(report, o.configPath, registry, mirror); err != nil {
			return asRoot(err)
		}
	}
	if o.snapshotter {
		if err := c.planSnapshotterInstall(cmd, report, o); err != nil {
			return asRoot(err)
		}
	}
	report.Notes = append(report.Notes, installNotes(o)...)
	if len(report.Changes) > 0 && !o.dryRun {
		first := report.Changes[0].apply
		report.Changes[0].apply = func() error {
			if err := sweep(o.configPath); err != nil {
				return err
			}
			return first()
		}
	}
	return c.carryOut(report, o.form, o.yes, o.dryRun)
}

// planSnapshotterInstall finds the socket as the settings have it.
func (c *cli) planSnapshotterInstall(cmd *cobra.Command, report *changeReport, o installOptions) error {
	if o.socket == "" {
		settings, _, err := c.loadSettings(cmd, &settingsFlags{})
		if err != nil {
			return err
		}
		o.socket = orElse(settings.Snapshotter.Address, defaultSnapshotterSocket)
	}
	o.socket, _ = trimUnix(o.socket)
	if !filepath.IsAbs(o.socket) {
		return wrongUse(cmd, "--snapshotter-address %q: want the absolute path of a socket", o.socket)
	}
	file, err := filepath.Abs(o.containerdConfig)
	if err != nil {
		return err
	}
	return planSnapshotter(report, file, o.socket)
}

// checkInstall reads the flags: used wrongly is found out before anything is looked at.
func checkInstall(cmd *cobra.Command, o *installOptions) (hostsMirror, error) {
	err := checkMirror(o.mirror)
	if err != nil {
		return hostsMirror{}, wrongUse(cmd, "--mirror %s", err)
	}
	if o.dialTimeout <= 0 {
		return hostsMirror{}, wrongUse(cmd, "--dial-timeout %s: want more than nothing, as in 1s", o.dialTimeout)
	}
	if err := checkRegistries(cmd, o.registries); err != nil {
		return hostsMirror{}, err
	}
	if o.configPath, err = absoluteFolder(cmd, o.configPath); err != nil {
		return hostsMirror{}, err
	}
	return hostsMirror{url: strings.TrimRight(o.mirror, "/"), dialTimeout: o.dialTimeout}, nil
}

// checkMirror wants a scheme and a host, and nothing else.
func checkMirror(mirror string) error {
	u, err := url.Parse(mirror)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || strings.Trim(u.Path, "/") != "" || u.User != nil || u.RawQuery != "" {
		return fmt.Errorf("%q: want http:// or https:// and a host, as in %s", mirror, defaultMirror)
	}
	return nil
}

// planInstall adds what is to change for one registry, "" for all.
func planInstall(report *changeReport, configPath, registry string, mirror hostsMirror) error {
	h, err := readHostsFile(hostsFolder(configPath, registry), registry)
	if err != nil {
		return err
	}
	desired, err := desiredHosts(h, mirror)
	if err != nil {
		return err
	}
	if h.content != nil && bytes.Equal(desired, h.content) {
		report.Notes = append(report.Notes, h.path()+" names this cache first already")
		return nil
	}
	if h.phase == phaseChanged {
		return &hintedError{
			fmt.Errorf("%s was changed since install:\n%s", h.path(), difference(h.path(), h.saved, h.content)),
			"\"imagecache containerd uninstall --force\" puts back what stood there before; then install again",
		}
	}
	report.Changes = append(report.Changes, plannedChange{
		File:       h.path(),
		Difference: difference(h.path(), h.content, desired),
		apply:      func() error { return h.install(desired, nil) },
	})
	if h.noFolder && registry != "" && exists(filepath.Join(configPath, defaultFolder, hostsName)) {
		report.Notes = append(report.Notes, fmt.Sprintf("%s has a folder of its own then: %s counts no longer for it",
			registry, filepath.Join(configPath, defaultFolder)))
	}
	return nil
}

// desiredHosts is what should stand: made from what stood before us, or from what stands now where that was changed since.
func desiredHosts(h *hostsFile, mirror hostsMirror) ([]byte, error) {
	before := h.original()
	if h.phase == phaseChanged {
		before = h.content
	}
	if len(before) == 0 {
		certificates, err := folderCertificates(h.folder)
		if err != nil {
			return nil, err
		}
		return freshHosts(h.registry, mirror, certificates), nil
	}
	merged, err := mergeHosts(before, mirror)
	if err != nil {
		return nil, &hintedError{
			fmt.Errorf("%s: %w", h.path(), err),
			"add this by hand, before all other hosts:\n" + mirror.table(),
		}
	}
	return merged, nil
}

// installNotes says what else a pull depends on.
func installNotes(o installOptions) []string {
	var notes []string
	if len(o.registries) == 0 {
		if own := registriesWithFolders(o.configPath); len(own) > 0 {
			notes = append(notes, fmt.Sprintf("%s: these have folders of their own, which the default one does not reach; add --registry for each that should pass through",
				strings.Join(own, ", ")))
		}
	}
	return append(notes, readContainerdConfig(o.containerdConfig).notes(o.configPath)...)
}

// registriesWithFolders lists the folders of single registries that do not name this cache yet.
func registriesWithFolders(configPath string) []string {
	folders, err := os.ReadDir(configPath)
	if err != nil {
		return nil
	}
	var names []string
	for _, folder := range folders {
		name := folder.Name()
		if name == defaultFolder || strings.HasPrefix(name, ".") || exists(filepath.Join(configPath, name, hostsName+suffixState)) {
			continue
		}
		if info, err := os.Stat(filepath.Join(configPath, name)); err == nil && info.IsDir() {
			names = append(names, name)
		}
	}
	return names
}

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
)

// uninstallOptions are the flags of "containerd uninstall".
type uninstallOptions struct {
	configPath         string
	containerdConfig   string
	registries         []string
	snapshotter        bool
	force, yes, dryRun bool
	form               outputForm
}

func (c *cli) containerdUninstallCommand() *cobra.Command {
	var o uninstallOptions
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Put back what stood there before install",
		Long: `Put back exactly what stood there before "imagecache containerd install", for every registry that it
was installed for, or for named ones, and in containerd's config.toml. Folders that install made go
again.

A file that somebody changed since is left alone, unless with --force.`,
		Example: `  imagecache containerd uninstall --dry-run
  imagecache containerd uninstall --yes
  imagecache containerd uninstall --registry docker.io`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.containerdUninstall(cmd, o)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	addConfigPathFlag(cmd, &o.configPath)
	flags := cmd.Flags()
	flags.StringArrayVar(&o.registries, "registry", nil, "only for this registry, by its `NAME` in references; may be repeated")
	flags.StringVar(&o.containerdConfig, "containerd-config", defaultContainerdConfig, "containerd's settings `FILE`")
	flags.BoolVar(&o.snapshotter, "snapshotter", false, "only containerd's settings; hosts.toml stays")
	flags.BoolVar(&o.force, "force", false, "put it back also where somebody changed it since")
	flags.BoolVarP(&o.yes, "yes", "y", false, "make the changes without asking")
	flags.BoolVar(&o.dryRun, "dry-run", false, "show the changes and make none")
	addOutputFlag(cmd, &o.form)
	return cmd
}

func (c *cli) containerdUninstall(cmd *cobra.Command, o uninstallOptions) error {
	var err error
	if o.configPath, err = absoluteFolder(cmd, o.configPath); err != nil {
		return err
	}
	if err := checkRegistries(cmd, o.registries); err != nil {
		return err
	}
	installed, err := o.installed()
	if err != nil {
		return asRoot(err)
	}
	report := &changeReport{Changes: []plannedChange{}, Notes: []string{}}
	for _, h := range installed {
		if h.phase == phaseChanged && !o.force {
			return &hintedError{
				fmt.Errorf("%s was changed since install; putting back what stood before would make of it:\n%s", h.path(), difference(h.path(), h.content, h.saved)),
				"add --force to put it back all the same",
			}
		}
		report.Changes = append(report.Changes, plannedChange{
			File:       h.path(),
			Difference: difference(h.path(), h.content, h.original()),
			apply:      func() error { return errors.Join(h.restore(nil), removeMade(o.configPath, hostsName)) },
		})
		if h.name != hostsName {
			report.Notes = append(report.Notes, "restart containerd, which reads its settings at the start only; containers run on. "+
				"Images that were pulled for this snapshotter have no layers in containerd: pull them again")
		}
	}
	if len(installed) == 0 {
		report.Notes = append(report.Notes, "nothing to do: install was not run for "+o.configPath)
	}
	if err := c.carryOut(report, o.form, o.yes, o.dryRun); err != nil || o.dryRun || !exists(o.configPath) {
		return err
	}
	return asRoot(sweep(o.configPath))
}

// installed finds what is to be put back: hosts first, whose folder may lie in the one of containerd's settings.
func (o uninstallOptions) installed() ([]*hostsFile, error) {
	var all []*hostsFile
	if !o.snapshotter {
		var err error
		if all, err = installedFiles(o.configPath, o.registries); err != nil || o.registries != nil {
			return all, err
		}
	}
	file, err := filepath.Abs(o.containerdConfig)
	if err != nil {
		return nil, err
	}
	h, err := readKeptFile(filepath.Dir(file), filepath.Base(file))
	if err == nil && (h.record != nil || h.saved != nil) {
		all = append(all, h)
	}
	return all, err
}

// installedFiles finds where install left something of its own.
func installedFiles(configPath string, registries []string) ([]*hostsFile, error) {
	folders, err := os.ReadDir(configPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var wanted []string
	for _, registry := range registries {
		wanted = append(wanted, hostsFolders(configPath, registry)...)
	}
	var found []*hostsFile
	for _, entry := range folders {
		folder := filepath.Join(configPath, entry.Name())
		if registries != nil && !slices.Contains(wanted, folder) || entry.Name() == newTreeName || !hasTraces(folder) {
			continue
		}
		h, err := readHostsFile(folder, "")
		if err != nil {
			return nil, err
		}
		found = append(found, h)
	}
	return found, nil
}

// hasTraces tells whether install left anything in a folder.
func hasTraces(folder string) bool {
	return slices.ContainsFunc([]string{hostsName + suffixState, hostsName + suffixSaved, madeName}, func(name string) bool {
		return exists(filepath.Join(folder, name))
	})
}

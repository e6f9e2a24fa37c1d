package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/log"
	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/registry"
)

// checkedHost is one host that containerd would try, in its order.
type checkedHost struct {
	Position     int      `json:"position"` // from 1
	URL          string   `json:"url"`      // scheme, host and path
	Capabilities []string `json:"capabilities"`
	Ours         bool     `json:"ours"`
	OK           bool     `json:"ok"`
	Outcome      string   `json:"outcome"` // of the probe, in words
}

// checkReport is what "containerd check" finds.
type checkReport struct {
	Reference string        `json:"reference"`
	Registry  string        `json:"registry"`
	Folder    string        `json:"folder"` // that containerd reads for the registry, "" for none
	Hosts     []checkedHost `json:"hosts"`
	Through   bool          `json:"through"` // the pull passes through this cache
	Reason    string        `json:"reason"`
	Notes     []string      `json:"notes"`
}

func (c *cli) containerdCheckCommand() *cobra.Command {
	var configPath, containerdConfig, mirror string
	var form outputForm
	var snapshotter bool
	cmd := &cobra.Command{
		Use:   "check REF",
		Short: "Tell what containerd would do for a reference",
		Long: `Tell what containerd would do for a reference: which hosts it would try, in which order, and what each
of them answers now. The hosts.toml is read by containerd's own code.

The exit status is 1 when a pull would not pass through this cache.

With --snapshotter, and without a reference: whether containerd can use this cache's snapshotter.`,
		Example: `  imagecache containerd check docker.io/library/alpine:3.22
  imagecache containerd check --snapshotter
  imagecache containerd check --mirror http://127.0.0.1:6000 -o json quay.io/acme/app:v1`,
		Args: func(cmd *cobra.Command, args []string) error {
			if snapshotter {
				return noArgs(cmd, args)
			}
			if err := exactArgs(1, "one reference")(cmd, args); err != nil {
				return err
			}
			return referenceArgs(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if snapshotter {
				return c.printSnapshotterCheck(checkSnapshotter(containerdConfig), form)
			}
			path, err := absoluteFolder(cmd, configPath)
			if err != nil {
				return err
			}
			ref, err := registry.ParseReference(args[0])
			if err != nil {
				return wrongUse(cmd, "%s", err)
			}
			if err := c.findMirror(cmd, &mirror); err != nil {
				return err
			}
			if err := checkMirror(mirror); err != nil {
				return wrongUse(cmd, "--mirror %s", err)
			}
			report := checkReference(cmd.Context(), path, strings.TrimRight(mirror, "/"), ref)
			report.Notes = append(report.Notes, readContainerdConfig(containerdConfig).notes(path)...)
			return c.printCheck(report, form)
		},
		ValidArgsFunction: c.completeReferences("/api/v1/images", "images"),
	}
	addConfigPathFlag(cmd, &configPath)
	cmd.Flags().StringVar(&containerdConfig, "containerd-config", defaultContainerdConfig, "containerd's settings `FILE`")
	cmd.Flags().StringVar(&mirror, "mirror", "", mirrorUsage)
	cmd.Flags().BoolVar(&snapshotter, "snapshotter", false, "the snapshotter, not a pull")
	addOutputFlag(cmd, &form)
	return cmd
}

// checkReference asks containerd's own library for the hosts of a reference, and each host for an answer.
func checkReference(ctx context.Context, configPath, mirror string, ref registry.Reference) *checkReport {
	report := &checkReport{Reference: ref.String(), Registry: ref.Registry, Hosts: []checkedHost{}, Notes: []string{}}
	find := config.HostDirFromRoot(configPath)
	folder, err := find(ref.Registry)
	report.Folder = folder
	if err == nil && folder != "" {
		// containerd logs this and goes on as if the file were not there.
		if _, err := readTOML(filepath.Join(folder, hostsName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			report.Reason = fmt.Sprintf("containerd ignores %s: %s", filepath.Join(folder, hostsName), err)
		}
	}
	// What its library logs is meant for containerd's log; what matters of it is in the report.
	_ = log.SetLevel("panic")
	hosts, err := config.ConfigureHosts(ctx, config.HostOptions{HostDir: find})(ref.Registry)
	if err != nil {
		report.Reason = fmt.Sprintf("containerd cannot use %s: %s", folder, err)
		return report
	}
	for i, host := range hosts {
		checked := checkedHost{Position: i + 1, URL: hostURL(host), Capabilities: capabilities(host.Capabilities), Ours: isMirror(host, mirror)}
		checked.OK, checked.Outcome = probe(ctx, host, checked.Ours, ref)
		report.Hosts = append(report.Hosts, checked)
	}
	report.judge(hosts, mirror, configPath)
	return report
}

// judge decides whether a pull passes through, and says why not.
func (r *checkReport) judge(hosts []docker.RegistryHost, mirror, configPath string) {
	needed := docker.HostCapabilityPull | docker.HostCapabilityResolve
	for i, host := range hosts {
		if !isMirror(host, mirror) {
			continue
		}
		switch {
		case !host.Capabilities.Has(needed):
			r.reason("%s is named, but not for both pull and resolve", mirror)
		case !r.Hosts[i].OK:
			r.reason("%s %s, so containerd goes on to the next host", mirror, r.Hosts[i].Outcome)
		case i > 0:
			r.Through = true
			r.reason("containerd tries %s only when the hosts before it fail", mirror)
		default:
			r.Through = true
		}
		return
	}
	if r.Folder == "" {
		r.reason("%s has neither a folder for %s nor a default one: run \"imagecache containerd install\"", configPath, r.Registry)
		return
	}
	r.reason("%s does not name %s: run \"imagecache containerd install%s\"", r.Folder, mirror, registryFlag(r.Folder, r.Registry))
}

// reason says why, unless something said so before.
func (r *checkReport) reason(format string, args ...any) {
	if r.Reason == "" {
		r.Reason = fmt.Sprintf(format, args...)
	}
}

func registryFlag(folder, registry string) string {
	if filepath.Base(folder) == defaultFolder {
		return ""
	}
	return " --registry " + registry
}

func hostURL(host docker.RegistryHost) string { return host.Scheme + "://" + host.Host + host.Path }

// isMirror goes by host and port: where a table has keys for TLS containerd tries https before http by itself.
func isMirror(host docker.RegistryHost, mirror string) bool {
	_, address, _ := strings.Cut(mirror, "://")
	return host.Host == address
}

func capabilities(has docker.HostCapabilities) []string {
	names := []string{}
	for _, c := range []struct {
		capability docker.HostCapabilities
		name       string
	}{
		{docker.HostCapabilityPull, "pull"}, {docker.HostCapabilityResolve, "resolve"},
		{docker.HostCapabilityPush, "push"}, {docker.HostCapabilityReferrers, "referrers"},
	} {
		if has.Has(c.capability) {
			names = append(names, c.name)
		}
	}
	return names
}

func (c *cli) printCheck(report *checkReport, form outputForm) error {
	if form == formJSON {
		if err := printJSON(c.out, report); err != nil {
			return err
		}
	} else if err := c.printCheckTable(report); err != nil {
		return err
	}
	if !report.Through {
		return errReported
	}
	return nil
}

func (c *cli) printCheckTable(report *checkReport) error {
	folder := report.Folder
	if folder == "" {
		folder = "none"
	}
	fmt.Fprintf(c.out, "%s\nfolder  %s\n\n", report.Reference, folder)
	t := newTable(c.out, "#", "HOST", "FOR", "NOW")
	for _, host := range report.Hosts {
		url := host.URL
		if host.Ours {
			url += " (this cache)"
		}
		t.row(fmt.Sprint(host.Position), url, strings.Join(host.Capabilities, ","), host.Outcome)
	}
	if err := t.flush(); err != nil {
		return err
	}
	verdict := "a pull passes through this cache"
	if !report.Through {
		verdict = "a pull does NOT pass through this cache"
	}
	if report.Reason != "" {
		verdict += ": " + printable(report.Reason)
	}
	fmt.Fprintf(c.out, "\n%s\n", verdict)
	for _, note := range report.Notes {
		fmt.Fprintf(c.out, "note: %s\n", note)
	}
	return nil
}

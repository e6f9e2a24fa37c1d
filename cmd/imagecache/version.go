package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker (-X main.version=…) in released builds.
var version = ""

// buildVersion names this build: the linker's word, else the module's version, else the revision it was built from.
func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return "devel-" + s.Value[:min(12, len(s.Value))]
		}
	}
	return "devel"
}

// versionLine tells the version to a person.
func versionLine() string {
	return fmt.Sprintf("imagecache %s (%s, %s/%s)\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func (c *cli) versionCommand() *cobra.Command {
	var form outputForm
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Show the version of this program",
		Long:    "Show the version of this program. What the daemon runs is in \"imagecache status\".",
		Example: "  imagecache version\n  imagecache version -o json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			if form == formJSON {
				return printJSON(c.out, map[string]string{"version": buildVersion(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH})
			}
			_, err := fmt.Fprint(c.out, versionLine())
			return err
		},
	}
	addOutputFlag(cmd, &form)
	return cmd
}

package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// cli is what a command may touch of the process it runs in.
type cli struct {
	in      io.Reader
	out     io.Writer // results
	err     io.Writer // progress, errors and hints
	environ []string  // as os.Environ gives it
	uid     int
	asks    bool // a person is there to answer a question
	redraws bool // err is a terminal: a line may be drawn again

	now        func() time.Time // nil: time.Now
	systemFile string           // the file of settings that counts when none is named
	admin      string           // --admin
	configFile string           // --config
}

// clock tells the time.
func (c *cli) clock() time.Time {
	if c.now != nil {
		return c.now()
	}
	return time.Now()
}

// getenv looks a variable up in the environment that the process was started with.
func (c *cli) getenv(name string) string {
	for _, pair := range c.environ {
		if value, ok := strings.CutPrefix(pair, name+"="); ok {
			return value
		}
	}
	return ""
}

// execute runs one command line and returns the exit status: 0 done, 1 failed, 2 used wrongly.
func (c *cli) execute(ctx context.Context, args []string) int {
	root := c.rootCommand()
	root.SetArgs(args)
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	return c.report(err)
}

func (c *cli) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "imagecache",
		Short: "A cache for container images: pull once, start from here",
		Long: `imagecache keeps the container images that this machine pulls, by digest, and serves them
from here from then on, whether or not the registry they came from can be reached.

"imagecache serve" is the daemon. The other commands ask it over its administration address.`,
		Example: `  imagecache serve
  imagecache containerd install
  imagecache pin docker.io/library/nginx:1.27
  imagecache pins --drift`,
		Args:          cobra.ArbitraryArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          runGroup,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return wrongUse(cmd, "%s", err)
	})
	root.PersistentFlags().StringVar(&c.admin, "admin", "",
		"administration `ADDRESS` of the daemon: unix:///…, http://… or https://… (IMAGECACHE_ADMIN)")
	root.PersistentFlags().StringVar(&c.configFile, "config", "",
		"settings `FILE` (IMAGECACHE_CONFIG; default "+defaultConfigFile+" where it exists)")
	root.AddCommand(
		c.serveCommand(), c.pullCommand(), c.pinCommand(), c.unpinCommand(), c.pinsCommand(),
		c.imagesCommand(), c.inspectCommand(), c.rmCommand(), c.statusCommand(), c.dfCommand(), c.gcCommand(), c.scrubCommand(), c.drillCommand(),
		c.matchCommand(), c.exportCommand(), c.importCommand(),
		c.mountCommand(), c.umountCommand(), c.bundleCommand(), c.gardenCommand(),
		c.accessCommand(), c.configCommand(), c.containerdCommand(), c.versionCommand(),
	)
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	makeCompletionStrict(root)
	makeHelpStrict(root)
	root.Version = buildVersion() // which is what brings --version
	root.SetVersionTemplate(versionLine())
	return root
}

// makeCompletionStrict gives cobra's own completion command our exit statuses.
func makeCompletionStrict(root *cobra.Command) {
	for _, cmd := range root.Commands() {
		if cmd.Name() != "completion" {
			continue
		}
		cmd.Args, cmd.RunE = cobra.ArbitraryArgs, runGroup
		for _, shell := range cmd.Commands() {
			shell.Args = noArgs
		}
	}
}

// makeHelpStrict makes "help nosuch" an error, as "nosuch --help" is one.
func makeHelpStrict(root *cobra.Command) {
	for _, cmd := range root.Commands() {
		if cmd.Name() != "help" {
			continue
		}
		cmd.Run = nil
		cmd.RunE = func(_ *cobra.Command, args []string) error {
			about, rest, err := root.Find(args)
			if err != nil || about == nil {
				about, rest = root, args
			}
			if len(rest) > 0 {
				return runGroup(about, rest)
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		}
	}
}

// runGroup is what a command that only holds others does when it is called itself: help without arguments, and otherwise an error
// that names the nearest command there is.
func runGroup(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	names := make([]string, 0, len(cmd.Commands()))
	for _, sub := range cmd.Commands() {
		names = append(names, sub.Name())
	}
	problem := fmt.Sprintf("there is no command %q", strings.TrimPrefix(cmd.CommandPath()+" "+args[0], "imagecache "))
	if near, ok := nearest(args[0], names); ok {
		problem += fmt.Sprintf("; did you mean %q?", near)
	}
	return wrongUse(cmd, "%s", problem)
}

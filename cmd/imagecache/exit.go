package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// Exit statuses that scripts rely on.
const (
	exitDone   = 0
	exitFailed = 1
	exitMisuse = 2
)

// usageError says that the command line was wrong, so that trying again as it stands is of no use.
type usageError struct {
	problem string
	hint    string
}

func (e *usageError) Error() string { return e.problem }

// hintedError is a failure that comes with what to do next.
type hintedError struct {
	err  error
	hint string
}

func (e *hintedError) Error() string { return e.err.Error() }
func (e *hintedError) Unwrap() error { return e.err }

// errReported ends a command that has already printed its failures, one for each reference.
var errReported = errors.New("failed")

// wrongUse makes a usage error whose hint names the help of the command.
func wrongUse(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{
		problem: fmt.Sprintf(format, args...),
		hint:    fmt.Sprintf("see %q", cmd.CommandPath()+" --help"),
	}
}

// report prints an error as people read it and returns the exit status that goes with it.
func (c *cli) report(err error) int {
	var misuse *usageError
	if errors.As(err, &misuse) {
		c.complain(misuse.problem, misuse.hint)
		return exitMisuse
	}
	if errors.Is(err, errReported) {
		return exitFailed
	}
	if errors.Is(err, context.Canceled) {
		c.complain("interrupted", "")
		return exitFailed
	}
	var hinted *hintedError
	if errors.As(err, &hinted) {
		c.complain(err.Error(), hinted.hint)
		return exitFailed
	}
	c.complain(err.Error(), "")
	return exitFailed
}

func (c *cli) complain(problem, hint string) {
	fmt.Fprintf(c.err, "imagecache: %s\n", strings.TrimSpace(problem))
	if hint != "" {
		fmt.Fprintf(c.err, "  %s\n", strings.ReplaceAll(strings.TrimSpace(hint), "\n", "\n  "))
	}
}

// exactArgs and minArgs refuse a wrong count of arguments as misuse; cobra's own checks know only one kind of error.
func exactArgs(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return wrongUse(cmd, "%s takes %s, not %d arguments", cmd.CommandPath(), what, len(args))
		}
		return nil
	}
}

func minArgs(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return wrongUse(cmd, "%s needs %s", cmd.CommandPath(), what)
		}
		return nil
	}
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return wrongUse(cmd, "%s takes no arguments, but there is %q", cmd.CommandPath(), args[0])
	}
	return nil
}

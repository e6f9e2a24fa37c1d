package main

import (
	"slices"
	"testing"

	"github.com/spf13/cobra"
)

// TestEveryCommandPrintsJSON, but those that print no result of their own, or in a form that others prescribe.
func TestEveryCommandPrintsJSON(t *testing.T) {
	others := []string{"imagecache serve", "imagecache export", "imagecache help", "imagecache completion", "imagecache garden-plugin"}
	var check func(cmd *cobra.Command)
	check = func(cmd *cobra.Command) {
		if slices.Contains(others, cmd.CommandPath()) {
			return
		}
		if cmd.Runnable() && !cmd.HasSubCommands() && cmd.Flags().Lookup("output") == nil {
			t.Errorf("%s has no -o", cmd.CommandPath())
		}
		for _, sub := range cmd.Commands() {
			check(sub)
		}
	}
	check((&cli{}).rootCommand())
}

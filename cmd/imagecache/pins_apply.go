package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/registry"
)

func (c *cli) pinsApplyCommand() *cobra.Command {
	var form outputForm
	var dryRun, prune bool
	cmd := &cobra.Command{
		Use:   "apply FILE",
		Short: "Make the pins of a lockfile so",
		Long: `Make the pins of a lockfile so: all of them, or none and an error. "-" is standard input.

Pins that the file does not name stay, unless --prune is given. What is new is fetched by the daemon
afterwards: "imagecache pins" shows how far it is. What is cached can be pinned while its upstream
is away.`,
		Example: "  imagecache pins apply --dry-run pins.lock\n  imagecache pins apply --prune pins.lock",
		Args:    exactArgs(1, "one lockfile"),
		RunE: func(cmd *cobra.Command, args []string) error {
			content, name, err := c.readInput(args[0], limitLockfile)
			if err != nil {
				return err
			}
			lock, err := parseLockfile(name, content)
			if err != nil {
				return err
			}
			client, err := c.client(cmd)
			if err != nil {
				return err
			}
			answer, err := client.post(cmd.Context(), "/api/v1/pins/apply", map[string]any{"pins": append([]registry.LockedPin{}, lock.Pins...), "dry_run": dryRun, "prune": prune})
			if err != nil {
				return err
			}
			if form == formJSON {
				return printRawJSON(c.out, answer)
			}
			return c.printApplied(answer)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would change, and change nothing")
	cmd.Flags().BoolVar(&prune, "prune", false, "unpin what the file does not name")
	addOutputFlag(cmd, &form)
	return cmd
}

// printApplied shows each pin that changes: + new, - gone, ~ moved.
func (c *cli) printApplied(content json.RawMessage) error {
	applied, err := decode[registry.Applied](content)
	if err != nil {
		return err
	}
	for _, change := range applied.Changes {
		switch {
		case change.Action == registry.ActionAdd:
			fmt.Fprintf(c.out, "+ %s %s\n", printable(change.Reference), printable(change.To))
		case change.Action == registry.ActionRemove:
			fmt.Fprintf(c.out, "- %s %s\n", printable(change.Reference), printable(change.From))
		case change.From == change.To:
			fmt.Fprintf(c.out, "~ %s %s, for other platforms\n", printable(change.Reference), printable(change.To))
		default:
			fmt.Fprintf(c.out, "~ %s %s -> %s\n", printable(change.Reference), printable(change.From), printable(change.To))
		}
	}
	switch {
	case len(applied.Changes) == 0:
		_, err = fmt.Fprintln(c.out, "all pins are as the file says")
	case applied.DryRun:
		_, err = fmt.Fprintf(c.out, "%s would change\n", plural(len(applied.Changes), "pin"))
	default:
		_, err = fmt.Fprintf(c.out, "%s changed\n", plural(len(applied.Changes), "pin"))
	}
	return err
}

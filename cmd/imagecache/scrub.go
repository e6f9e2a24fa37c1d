package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/registry"
)

func (c *cli) scrubCommand() *cobra.Command {
	var form outputForm
	var all bool
	cmd := &cobra.Command{
		Use:   "scrub",
		Short: "Look for damage in what is stored, and repair it",
		Long: `Look for damage in what is stored, and repair it.

Blobs are read from the disk and hashed, when the disk has nothing better to do: those that were not
proven for as long as verify_after says, or all. What is damaged is taken away and fetched again from
its upstream. The daemon does the same by itself, slowly; see verify_after and scrub_rate under [store].

The exit status is 1 when something that is damaged could not be fetched again.`,
		Example: "  imagecache scrub\n  imagecache scrub --all\n  imagecache scrub --all -o json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client(cmd)
			if err != nil {
				return err
			}
			return c.scrub(cmd.Context(), client, all, form)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&all, "all", false, "everything, also what was proven lately")
	addOutputFlag(cmd, &form)
	return cmd
}

func (c *cli) scrub(ctx context.Context, client *adminClient, all bool, form outputForm) error {
	line := &progressLine{w: c.err, redraws: c.redraws, now: c.clock}
	content, err := client.stream(ctx, "/api/v1/scrub", map[string]bool{"all": all}, func(event registry.Progress) {
		event.Reference = event.Phase
		line.show(event)
	})
	line.clear()
	if ctx.Err() != nil || errors.Is(err, errBrokenOff) {
		return &hintedError{err, "what was proven until now is not read again by the next scrub, but for one with --all"}
	}
	if err != nil {
		return err
	}
	done, err := decode[registry.Scrubbed](content)
	if err != nil {
		return err
	}
	if form == formJSON {
		err = printRawJSON(c.out, content)
	} else {
		err = c.printScrubbed(done)
	}
	if err == nil && len(done.Unrepaired) > 0 {
		err = fmt.Errorf("%s could not be fetched again", plural(len(done.Unrepaired), "damaged blob"))
	}
	return err
}

func (c *cli) printScrubbed(done registry.Scrubbed) error {
	_, err := fmt.Fprintf(c.out, "read %s in %s, %d damaged, %d fetched again\n", size(done.Bytes), plural(done.Blobs, "blob"), done.Rotten, done.Repaired)
	if err != nil || len(done.Unrepaired) == 0 {
		return err
	}
	t := newTable(c.out, "BLOB", "SIZE", "NOT FETCHED BECAUSE", "NEEDED BY")
	for _, u := range done.Unrepaired {
		t.row(u.Digest, size(u.Size), strings.ReplaceAll(u.Reason, "\n", "; "), strings.Join(u.References, ", "))
	}
	return t.flush()
}

// printRot is the line of the status about damage, when there was some.
func (c *cli) printRot(status registry.Status) {
	if status.Quarantined == 0 && status.Repaired == 0 && status.Unrepaired == 0 {
		return
	}
	fmt.Fprintf(c.out, "damage   %s taken away, %d fetched again, %d not\n", plural(int(status.Quarantined), "blob"), status.Repaired, status.Unrepaired)
}

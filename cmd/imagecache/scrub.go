package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/api"
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
its upstream. Unpacked layers are read next, and unpacked again where they are damaged. The daemon does the
same by itself, slowly; see verify_after and scrub_rate under [store].

The exit status is 1 when something that is damaged could not be fetched or unpacked again.`,
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
	done, err := decode[api.Scrubbed](content)
	if err != nil {
		return err
	}
	if form == formJSON {
		err = printRawJSON(c.out, content)
	} else {
		err = c.printScrubbed(done)
	}
	if err != nil {
		return err
	}
	return leftDamaged(done)
}

// leftDamaged is the error about what could not be repaired.
func leftDamaged(done api.Scrubbed) error {
	var failures []error
	if n := len(done.Unrepaired); n > 0 {
		failures = append(failures, fmt.Errorf("%s could not be fetched again", plural(n, "damaged blob")))
	}
	if f := done.Forms; f != nil && len(f.Unmade) > 0 {
		failures = append(failures, fmt.Errorf("%s could not be unpacked again", plural(len(f.Unmade), "damaged layer")))
	}
	return errors.Join(failures...)
}

func (c *cli) printScrubbed(done api.Scrubbed) error {
	_, err := fmt.Fprintf(c.out, "read %s in %s, %d damaged, %d fetched again\n", size(done.Bytes), plural(done.Blobs, "blob"), done.Rotten, done.Repaired)
	if f := done.Forms; err == nil && f != nil {
		_, err = fmt.Fprintf(c.out, "read %s in %s, %d damaged, %d unpacked again\n", size(f.Bytes), plural(f.Forms, "unpacked layer"), f.Rotten, f.MadeAgain)
	}
	if err != nil {
		return err
	}
	return errors.Join(c.printUnrepaired(done.Unrepaired), c.printUnmade(done.Forms))
}

// printUnmade lists unpacked layers that stay damaged.
func (c *cli) printUnmade(f *api.ScrubbedForms) error {
	if f == nil || len(f.Unmade) == 0 {
		return nil
	}
	t := newTable(c.out, "UNPACKED LAYER", "SIZE", "NOT UNPACKED AGAIN BECAUSE", "USED BY")
	for _, u := range f.Unmade {
		t.row(u.DiffID, size(u.Size), strings.ReplaceAll(u.Reason, "\n", "; "), strings.Join(u.Users, ", "))
	}
	return t.flush()
}

// printUnrepaired lists blobs that stay lost.
func (c *cli) printUnrepaired(lost []registry.Unrepaired) error {
	if len(lost) == 0 {
		return nil
	}
	t := newTable(c.out, "BLOB", "SIZE", "NOT FETCHED BECAUSE", "NEEDED BY")
	for _, u := range lost {
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

package main

import (
	"context"
	"encoding/json"

	"github.com/spf13/cobra"
)

// rollbackWish is what rollback asks for.
type rollbackWish struct {
	Reference string `json:"reference"`
	To        string `json:"to,omitempty"`
	Fetch     bool   `json:"fetch"`
}

func (c *cli) pinsRollbackCommand() *cobra.Command {
	var form outputForm
	wish := rollbackWish{}
	cmd := &cobra.Command{
		Use:   "rollback REF",
		Short: "Move a pin back to a digest that it had before",
		Long: `Move a pin back to the digest that it had before, or with --to to any earlier one. Rolling back twice
goes forth again. "imagecache pins REF -o json" lists the earlier digests.

All of the image must still be here; otherwise nothing changes, and what lacks is named. --fetch
fetches it first.`,
		Example: "  imagecache pins rollback docker.io/library/postgres:17\n  imagecache pins rollback --to sha256:3b1f… --fetch ghcr.io/acme/app:v1",
		Args: func(cmd *cobra.Command, args []string) error {
			if err := exactArgs(1, "one reference")(cmd, args); err != nil {
				return err
			}
			return referenceArgs(cmd, args)
		},
		RunE: func(cmd *cobra.Command, refs []string) error {
			client, err := c.client(cmd)
			if err != nil {
				return err
			}
			return c.forEach(cmd.Context(), cmd, refs, func(ctx context.Context, ref string) error {
				wish.Reference = ref
				line := &progressLine{w: c.err, redraws: c.redraws, now: c.clock}
				result, err := client.stream(ctx, "/api/v1/pins/rollback", wish, line.show)
				line.clear()
				if err != nil {
					return err
				}
				return c.printRolledBack(result, form)
			})
		},
		ValidArgsFunction: c.completeReferences("/api/v1/pins", "pins"),
	}
	cmd.Flags().StringVar(&wish.To, "to", "", "the `DIGEST` to go back to (default: the one before)")
	cmd.Flags().BoolVar(&wish.Fetch, "fetch", false, "fetch what is not here any more")
	addOutputFlag(cmd, &form)
	return cmd
}

func (c *cli) printRolledBack(result json.RawMessage, form outputForm) error {
	if form == formJSON {
		return printRawJSON(c.out, result)
	}
	return printPinned(c, result)
}

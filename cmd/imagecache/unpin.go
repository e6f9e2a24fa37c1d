package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func (c *cli) unpinCommand() *cobra.Command {
	var form outputForm
	cmd := &cobra.Command{
		Use:   "unpin REF…",
		Short: "Let references follow their upstreams again",
		Long: `Take pins away: these references follow their upstreams again.

Nothing is deleted; see "imagecache rm" for that.`,
		Example: "  imagecache unpin docker.io/library/postgres:17",
		Args:    referenceArgs,
		RunE: func(cmd *cobra.Command, refs []string) error {
			client, err := c.client(cmd)
			if err != nil {
				return err
			}
			done := []string{}
			failed := c.forEach(cmd.Context(), cmd, refs, func(ctx context.Context, ref string) error {
				if _, err := client.delete(ctx, "/api/v1/pins", refQuery(ref)); err != nil {
					return err
				}
				done = append(done, ref)
				if form == formTable {
					fmt.Fprintf(c.out, "%s is no longer pinned\n", ref)
				}
				return nil
			})
			if form == formJSON {
				if err := printJSON(c.out, map[string][]string{"unpinned": done}); err != nil {
					return err
				}
			}
			return failed
		},
		ValidArgsFunction: c.completeReferences("/api/v1/pins", "pins"),
	}
	addOutputFlag(cmd, &form)
	return cmd
}

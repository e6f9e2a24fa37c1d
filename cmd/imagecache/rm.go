package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/registry"
)

func (c *cli) rmCommand() *cobra.Command {
	var form outputForm
	cmd := &cobra.Command{
		Use:   "rm REF…",
		Short: "Forget images, and free what only they used",
		Long: `Forget images, and delete the blobs that no other cached image needs.

A pinned reference is refused: unpin it first.`,
		Example: "  imagecache rm docker.io/library/nginx:1.25",
		Args:    referenceArgs,
		RunE: func(cmd *cobra.Command, refs []string) error {
			client, err := c.client(cmd)
			if err != nil {
				return err
			}
			results := []json.RawMessage{}
			failed := c.forEach(cmd.Context(), cmd, refs, func(ctx context.Context, ref string) error {
				result, err := client.delete(ctx, "/api/v1/images", refQuery(ref))
				if err != nil {
					return err
				}
				results = append(results, result)
				if form == formTable {
					return c.printRemoved(result)
				}
				return nil
			})
			if form == formJSON {
				if err := printJSON(c.out, map[string][]json.RawMessage{"removed": results}); err != nil {
					return err
				}
			}
			return failed
		},
		ValidArgsFunction: c.completeReferences("/api/v1/images", "images"),
	}
	addOutputFlag(cmd, &form)
	return cmd
}

func (c *cli) printRemoved(content json.RawMessage) error {
	removed, err := decode[registry.Removed](content)
	if err != nil {
		return err
	}
	for _, reference := range removed.References {
		fmt.Fprintf(c.out, "forgot %s\n", printable(reference))
	}
	_, err = fmt.Fprintf(c.out, "freed %s in %s\n", size(removed.Bytes), plural(removed.Blobs, "blob"))
	return err
}

package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/registry"
)

func (c *cli) pinCommand() *cobra.Command {
	var form outputForm
	var platforms []string
	cmd := &cobra.Command{
		Use:   "pin REF…",
		Short: "Freeze references at their digests, and fetch all of them",
		Long: `Freeze references at the digests they have now, and fetch all of these images.

From then on a pinned reference answers with that digest through the mirror, whatever its upstream
does, until "imagecache unpin". REF@sha256:… pins REF at that digest, whatever its tag says.
Pinning again moves the pin. A cached image can be pinned while its upstream is away.`,
		Example: `  imagecache pin docker.io/library/postgres:17
  imagecache pin --platform all ghcr.io/acme/app:v1
  imagecache pin quay.io/acme/db:9@sha256:3b1f…`,
		Args: referenceArgs,
		RunE: func(cmd *cobra.Command, refs []string) error {
			return c.fetchAll(cmd, "/api/v1/pins", "pins", refs, platforms, form, printPinned)
		},
		ValidArgsFunction: c.completeReferences("/api/v1/images", "images"),
	}
	addPlatformFlag(cmd, &platforms)
	addOutputFlag(cmd, &form)
	return cmd
}

func printPinned(c *cli, result json.RawMessage) error {
	var pin registry.Pin
	if err := json.Unmarshal(result, &pin); err != nil {
		return fmt.Errorf("the daemon's answer is not understood: %w", err)
	}
	return c.printFetched(pin.Reference, pin.Digest, pin.Platforms, pin.Complete, pin.Have, pin.Want, pin.Size)
}

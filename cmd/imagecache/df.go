package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/registry"
)

func (c *cli) dfCommand() *cobra.Command {
	var form outputForm
	cmd := &cobra.Command{
		Use:   "df",
		Short: "Show what takes how much space",
		Long: `Show what takes how much space.

UNIQUE is what "imagecache rm" of that image alone would free; SHARED is used by other images too. "partial"
are transfers that are not complete, "rotten" damaged blobs that are kept for a week to be looked at, "forms"
unpacked layers. All of it counts in max_size, but for what is being transferred.`,
		Example: "  imagecache df\n  imagecache df -o json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.showAnswer(cmd, "/api/v1/df", nil, form, c.printDiskUsage)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	addOutputFlag(cmd, &form)
	return cmd
}

func (c *cli) printDiskUsage(content json.RawMessage) error {
	usage, err := decode[registry.DiskUsage](content)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.out, "root      %s: %s free of %s\n", printable(usage.Root), size(int64(usage.Free)), size(int64(usage.Capacity)))
	fmt.Fprintf(c.out, "blobs     %d, %s\n", usage.Blobs, size(usage.Bytes))
	fmt.Fprintf(c.out, "partial   %d, %s; nobody is at %d of them, %s\n", usage.Partial, size(usage.PartialBytes), usage.Idle, size(usage.IdleBytes))
	fmt.Fprintf(c.out, "rotten    %d, %s in quarantine\n", usage.Quarantine, size(usage.QuarantineBytes))
	fmt.Fprintf(c.out, "forms     %s\n\n", size(usage.FormBytes))
	t := newTable(c.out, "IMAGE", "DIGEST", "SIZE", "UNIQUE", "SHARED", "PINNED")
	for _, image := range usage.Images {
		t.row(image.Reference, shortDigest(image.Digest), size(image.Size), size(image.Unique), size(image.Shared), yesNo(image.Pinned))
	}
	return t.flush()
}

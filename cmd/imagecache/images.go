package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/registry"
)

func (c *cli) imagesCommand() *cobra.Command {
	var form outputForm
	cmd := &cobra.Command{
		Use:     "images",
		Short:   "List what is cached",
		Long:    "List the references that are cached: digest, platforms, size, how much is here, last use.",
		Example: "  imagecache images\n  imagecache images -o json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.showAnswer(cmd, "/api/v1/images", nil, form, c.printImages)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	addOutputFlag(cmd, &form)
	return cmd
}

func (c *cli) printImages(content json.RawMessage) error {
	answer, err := decode[struct {
		Images []registry.Image `json:"images"`
	}](content)
	if err != nil {
		return err
	}
	t := newTable(c.out, "REFERENCE", "DIGEST", "PLATFORMS", "SIZE", "COMPLETE", "PINNED", "CHECKED", "USED")
	now := c.clock()
	for _, image := range answer.Images {
		t.row(image.Reference, shortDigest(image.Digest), strings.Join(image.Platforms, ","), size(image.Size),
			completenessOf(image), yesNo(image.Pinned), ago(now, image.CheckedAt), ago(now, image.UsedAt))
	}
	return t.flush()
}

// completenessOf says how much of an image is here: "yes, 3 unpacked only".
func completenessOf(image registry.Image) string {
	return completeness(image.Complete, image.Have, image.Want) + unpackedOnly(image.Dropped)
}

// unpackedOnly says that some layers are not kept compressed.
func unpackedOnly(dropped int) string {
	if dropped == 0 {
		return ""
	}
	return fmt.Sprintf(", %d unpacked only", dropped)
}

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/registry"
)

func (c *cli) inspectCommand() *cobra.Command {
	var form outputForm
	cmd := &cobra.Command{
		Use:   "inspect REF",
		Short: "Show a cached image down to its layers",
		Long: `Show a cached image: its manifests, their layers, and which of them are here.

-o json also holds the image's configuration for this machine's platform.`,
		Example: "  imagecache inspect docker.io/library/nginx:1.27\n  imagecache inspect -o json nginx",
		Args: func(cmd *cobra.Command, args []string) error {
			if err := exactArgs(1, "one reference")(cmd, args); err != nil {
				return err
			}
			return referenceArgs(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			err := c.showAnswer(cmd, "/api/v1/images/inspect", refQuery(args[0]), form, c.printInspection)
			if err != nil {
				return asMisuse(cmd, blameUnlessHinted(args[0], err))
			}
			return nil
		},
		ValidArgsFunction: c.completeReferences("/api/v1/images", "images"),
	}
	addOutputFlag(cmd, &form)
	return cmd
}

func (c *cli) printInspection(content json.RawMessage) error {
	image, err := decode[registry.Inspection](content)
	if err != nil {
		return err
	}
	now := c.clock()
	for _, pair := range [][2]string{
		{"reference", image.Reference}, {"digest", image.Digest}, {"media type", image.MediaType},
		{"platforms", strings.Join(image.Platforms, ", ")}, {"size", size(image.Size)},
		{"complete", completenessOf(image.Image)}, {"pinned", yesNo(image.Pinned)},
		{"checked", ago(now, image.CheckedAt)}, {"used", ago(now, image.UsedAt)},
	} {
		if pair[1] != "" {
			fmt.Fprintf(c.out, "%-10s  %s\n", pair[0], printable(pair[1]))
		}
	}
	for _, manifest := range image.Manifests {
		if err := c.printManifest(manifest); err != nil {
			return err
		}
	}
	return nil
}

// printManifest shows one manifest: its platform, its annotations, its configuration and its layers.
func (c *cli) printManifest(manifest registry.InspectedManifest) error {
	fmt.Fprintf(c.out, "\nmanifest    %s\n", printable(manifest.Digest))
	if manifest.Platform != "" {
		fmt.Fprintf(c.out, "%-10s  %s\n", "platform", printable(manifest.Platform))
	}
	for _, key := range slices.Sorted(maps.Keys(manifest.Annotations)) {
		fmt.Fprintf(c.out, "%-10s  %s=%s\n", "annotation", printable(key), printable(manifest.Annotations[key]))
	}
	if manifest.Config == nil && len(manifest.Layers) == 0 {
		return c.printWithoutBlobs(manifest)
	}
	t := newTable(c.out, "BLOB", "SIZE", "HERE", "MEDIA TYPE")
	if manifest.Config != nil {
		t.row(manifest.Config.Digest, size(manifest.Config.Size), yesNo(manifest.Config.Here), manifest.Config.MediaType)
	}
	for _, layer := range manifest.Layers {
		t.row(layer.Digest, size(layer.Size), here(layer), layer.MediaType)
	}
	return t.flush()
}

// here says whether a layer is, and when not, whether it lies here unpacked.
func here(layer registry.InspectedBlob) string {
	if layer.Dropped {
		return "dropped, unpacked here"
	}
	return yesNo(layer.Here)
}

// printWithoutBlobs shows an index, whose images follow, or an image of which nothing is known.
func (c *cli) printWithoutBlobs(manifest registry.InspectedManifest) error {
	state := "an index; its images follow"
	if !manifest.Here {
		state = "not here, so its layers are not known"
	}
	_, err := fmt.Fprintf(c.out, "%-10s  %s, %s\n", "media type", printable(manifest.MediaType), state)
	return err
}

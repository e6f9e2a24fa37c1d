package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/registry"
)

func (c *cli) pullCommand() *cobra.Command {
	var form outputForm
	var platforms []string
	var file string
	cmd := &cobra.Command{
		Use:   "pull REF…|-",
		Short: "Fetch images into the cache now",
		Long: `Fetch images into the cache now, before anybody asks for them.

All of an image is fetched for the chosen platforms: this machine's own, unless the upstream's
settings or --platform say otherwise. What is here already is not fetched again.

--file names a file of references, one a line, and - stands for standard input; "#" begins a
comment. What fails does not keep the others from being fetched; the exit status is 1 then.`,
		Example: `  imagecache pull alpine:3.22
  imagecache pull --platform linux/amd64 --platform linux/arm64 ghcr.io/acme/app:v1
  imagecache pull --platform all registry.k8s.io/pause:3.10
  imagecache pull --file images.txt`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			refs, err := c.references(cmd, args, file)
			if err != nil {
				return err
			}
			return c.fetchAll(cmd, "/api/v1/pull", "images", refs, wanted{Platforms: platforms}, form, printPulled)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	addFileFlag(cmd, &file)
	addPlatformFlag(cmd, &platforms)
	addOutputFlag(cmd, &form)
	return cmd
}

func addPlatformFlag(cmd *cobra.Command, platforms *[]string) {
	cmd.Flags().StringArrayVar(platforms, "platform", nil, "`PLATFORM` to fetch, as in linux/arm64, or all; may be repeated")
	_ = cmd.RegisterFlagCompletionFunc("platform", cobra.FixedCompletions(
		[]string{"all", "linux/amd64", "linux/arm64", "linux/arm/v7", "linux/ppc64le", "linux/s390x", "linux/riscv64"}, cobra.ShellCompDirectiveNoFileComp))
}

// printer writes one result for people.
type printer func(c *cli, result json.RawMessage) error

// fetchAll asks for each reference in turn with progress, prints each result as it comes, or all of them as one document under list.
func (c *cli) fetchAll(cmd *cobra.Command, path, list string, refs []string, wish wanted, form outputForm, show printer) error {
	if err := checkPlatforms(wish.Platforms); err != nil {
		return wrongUse(cmd, "--platform: %s", err)
	}
	client, err := c.client(cmd)
	if err != nil {
		return err
	}
	if wish.Platforms == nil {
		wish.Platforms = []string{}
	}
	results := []json.RawMessage{}
	failed := c.forEach(cmd.Context(), cmd, refs, func(ctx context.Context, ref string) error {
		result, err := c.fetchOne(ctx, client, path, wanted{ref, wish.Platforms, wish.Update})
		if err != nil {
			return err
		}
		results = append(results, result)
		if form == formTable {
			return show(c, result)
		}
		return nil
	})
	if form == formJSON && len(results) > 0 {
		if err := printJSON(c.out, map[string][]json.RawMessage{list: results}); err != nil {
			return err
		}
	}
	return failed
}

// fetchOne follows one wish to its end.
func (c *cli) fetchOne(ctx context.Context, client *adminClient, path string, wish wanted) (json.RawMessage, error) {
	line := &progressLine{w: c.err, redraws: c.redraws, now: c.clock}
	var last registry.Progress
	result, err := client.stream(ctx, path, wish, func(event registry.Progress) {
		last = event
		line.show(event)
	})
	line.clear()
	if err == nil {
		return result, nil
	}
	if ctx.Err() != nil || errors.Is(err, errBrokenOff) {
		return nil, &hintedError{interrupted(wish.Reference, last, err), interruptedHint(path)}
	}
	return nil, err
}

// interrupted says how far it came.
func interrupted(reference string, last registry.Progress, err error) error {
	why := "interrupted"
	if errors.Is(err, errBrokenOff) {
		why = err.Error()
	}
	if last.BlobsTotal == 0 {
		return fmt.Errorf("%s: %s", reference, why)
	}
	return fmt.Errorf("%s: %s with %d of %d blobs here", reference, why, last.BlobsDone, last.BlobsTotal)
}

func interruptedHint(path string) string {
	if strings.HasSuffix(path, "/pins") {
		return "what arrived is kept; \"imagecache pins\" tells whether the pin was made, and the same command goes on from here"
	}
	return "what arrived is kept; the same command goes on from here"
}

func printPulled(c *cli, result json.RawMessage) error {
	var image registry.Image
	if err := json.Unmarshal(result, &image); err != nil {
		return fmt.Errorf("the daemon's answer is not understood: %w", err)
	}
	return c.printFetched(image.Reference, image.Digest, image.Platforms, image.Complete, image.Have, image.Want, image.Size)
}

// printFetched is one result line: reference -> digest, platforms, completeness, size.
func (c *cli) printFetched(reference, digest string, platforms []string, complete bool, have, want int, bytes int64) error {
	parts := []string{fmt.Sprintf("%s -> %s", printable(reference), printable(digest))}
	if len(platforms) > 0 {
		parts = append(parts, printable(strings.Join(platforms, " ")))
	}
	parts = append(parts, completeness(complete, have, want), size(bytes))
	_, err := fmt.Fprintln(c.out, strings.Join(parts, ", "))
	return err
}

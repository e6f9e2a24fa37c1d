package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/registry"
)

// matchAtOnce is how many digests the daemon is asked for at once: some 2 MB, a quarter of what it takes.
const matchAtOnce = 20_000

func (c *cli) matchCommand() *cobra.Command {
	var form outputForm
	var all bool
	cmd := &cobra.Command{
		Use:   "match DIGEST…|-",
		Short: "Tell which blobs are here",
		Long: `Tell which of some blobs are here, whole, with their sizes.

- reads them from standard input: lines of a digest and perhaps its size in bytes, or JSON, such as
what "imagecache inspect -o json" and "imagecache export --dry-run" print elsewhere. What is printed can
be given to "imagecache export --have" there.

The exit status is 0 however many are here; with --all it is 1 unless all are.`,
		Example: `  imagecache match sha256:4bcff63911fcb4448bd4fdacec207030997caf25e9bea4045fa6c8c44de311d1
  imagecache export --dry-run nginx:1.27 | ssh other imagecache match - > have
  imagecache export nginx:1.27 --have have | ssh other imagecache import -`,
		Args: minArgs(1, "digests, or - for standard input"),
		RunE: func(cmd *cobra.Command, args []string) error {
			sought, err := c.sought(cmd, args)
			if err != nil {
				return err
			}
			return c.matchBlobs(cmd, sought, form, all)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&all, "all", false, "fail unless all are here")
	addOutputFlag(cmd, &form)
	return cmd
}

// sought are the blobs of the arguments, and of standard input where - is one.
func (c *cli) sought(cmd *cobra.Command, args []string) ([]registry.Sought, error) {
	var all []registry.Sought
	if i := slices.Index(args, "-"); i >= 0 {
		content, name, err := c.readInput("-", limitDigests)
		if err != nil {
			return nil, err
		}
		if all, err = readDigests(name, content); err != nil {
			return nil, wrongUse(cmd, "%s", err)
		}
		args = slices.Delete(slices.Clone(args), i, i+1)
	}
	for _, arg := range args {
		sought, err := digestLine([]string{arg})
		if err != nil {
			return nil, wrongUse(cmd, "%s", err)
		}
		all = append(all, sought)
	}
	return unique(all), nil
}

func (c *cli) matchBlobs(cmd *cobra.Command, sought []registry.Sought, form outputForm, all bool) error {
	client, err := c.client(cmd)
	if err != nil {
		return err
	}
	here := []registry.Sought{}
	for part := range slices.Chunk(sought, matchAtOnce) {
		content, err := client.post(cmd.Context(), "/api/v1/match", part)
		if err != nil {
			return asMisuse(cmd, err)
		}
		told, err := decode[[]registry.Sought](content)
		if err != nil {
			return err
		}
		here = append(here, told...)
	}
	if err := c.printHere(here, form); err != nil {
		return err
	}
	if want := blobsAmong(sought); all && len(here) < want {
		return fmt.Errorf("%d of %d are not here", want-len(here), want)
	}
	return nil
}

// blobsAmong counts digests, which may stand there with several sizes.
func blobsAmong(sought []registry.Sought) int {
	digests := map[digest.Digest]bool{}
	for _, s := range sought {
		digests[s.Digest] = true
	}
	return len(digests)
}

func (c *cli) printHere(here []registry.Sought, form outputForm) error {
	if form == formJSON {
		content, err := json.Marshal(here)
		if err != nil {
			return err
		}
		return printRawJSON(c.out, content)
	}
	t := newTable(c.out, "DIGEST", "SIZE")
	for _, h := range here {
		t.row(h.Digest.String(), strconv.FormatInt(h.Size, 10)) // in bytes: it is read again
	}
	return t.flush()
}

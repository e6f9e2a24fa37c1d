package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry"
)

func (c *cli) gcCommand() *cobra.Command {
	var form outputForm
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Evict now what the limits of the store ask for",
		Long: `Evict now what the limits of the store ask for: max_size, min_free and max_age under [store].

The daemon does that by itself when a limit is passed. What serves nobody goes first: damaged blobs in
quarantine, and the rests of transfers that nobody goes on with. Then whole images go, the least recently used first.
What is pinned, being pulled or being read stays, and so does every layer that an image which stays
needs. FREES is what goes with an image; what it shares with others is not in it.

Blobs of homes that no manifest names any more go whatever the limits, once no client was told of them for an hour.`,
		Example: "  imagecache gc --dry-run\n  imagecache gc\n  imagecache gc --dry-run -o json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client(cmd)
			if err != nil {
				return err
			}
			content, err := client.post(cmd.Context(), "/api/v1/gc", map[string]bool{"dry_run": dryRun})
			if err != nil {
				return err
			}
			if form == formJSON {
				return printRawJSON(c.out, content)
			}
			return c.printCollection(content)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would go, and why")
	addOutputFlag(cmd, &form)
	return cmd
}

func (c *cli) printCollection(content json.RawMessage) error {
	told, err := decode[registry.Collection](content)
	if err != nil {
		return err
	}
	if len(told.Leftovers) > 0 {
		if err := c.printLeftovers(told); err != nil {
			return err
		}
		fmt.Fprintln(c.out)
	}
	if len(told.Evicted) > 0 {
		if err := c.printEvicted(told); err != nil {
			return err
		}
		fmt.Fprintln(c.out)
	}
	done := "freed"
	if told.DryRun {
		done = "would free"
	}
	from := plural(told.Blobs, "blob")
	if len(told.Leftovers) > 0 {
		from += " and " + plural(len(told.Leftovers), "leftover")
	}
	fmt.Fprintf(c.out, "%s %s in %s\n", done, size(told.Bytes), from)
	c.printUnnamed(told)
	if told.Short == 0 {
		return nil
	}
	fmt.Fprintf(c.out, "the store stays %s over its limits: what is left has to stay\n\n", size(told.Short))
	return c.printKept(told)
}

// printUnnamed tells of blobs that were pushed and that no manifest names.
func (c *cli) printUnnamed(told registry.Collection) {
	done := "let go of"
	if told.DryRun {
		done = "would let go of"
	}
	if u := told.Unnamed; u.Gone > 0 {
		fmt.Fprintf(c.out, "%s %s, %s, pushed and named by no manifest\n", done, plural(u.Gone, "blob"), size(u.GoneBytes))
	}
	if u := told.Unnamed; u.Kept > 0 {
		fmt.Fprintf(c.out, "%s, %s, pushed and named by no manifest, kept for an hour or two: a client that was told of them may name them yet\n",
			plural(u.Kept, "blob"), size(u.KeptBytes))
	}
}

func (c *cli) printEvicted(told registry.Collection) error {
	t := newTable(c.out, "IMAGE", "FREES", "LAST USED", "WHY")
	for _, e := range told.Evicted {
		t.row(imageNames(e.References, e.Digest), size(e.Bytes), ago(c.clock(), e.UsedAt), whyEvicted(e.Reason))
	}
	return t.flush()
}

func (c *cli) printLeftovers(told registry.Collection) error {
	t := newTable(c.out, "LEFTOVER", "NAME", "FREES", "LAST WRITTEN", "WHY")
	for _, l := range told.Leftovers {
		since := ""
		if !l.Since.IsZero() {
			since = ago(c.clock(), l.Since)
		}
		t.row(leftoverKind(l.Kind), l.Name, size(l.Bytes), since, whyLeftover(l))
	}
	return t.flush()
}

func leftoverKind(kind string) string {
	switch layerstore.LeftoverKind(kind) {
	case layerstore.LeftQuarantined:
		return "damaged blob"
	case layerstore.LeftPartial:
		return "partial blob"
	case layerstore.LeftForms:
		return "unused forms"
	}
	return kind // an ingest, or what a newer daemon knows
}

func whyLeftover(l registry.Leftover) string {
	if layerstore.Reason(l.Reason) == layerstore.ForAge {
		return "older than a week"
	}
	return whyEvicted(l.Reason)
}

func (c *cli) printKept(told registry.Collection) error {
	t := newTable(c.out, "IMAGE", "SIZE", "LAST USED", "STAYS BECAUSE")
	for _, k := range told.Kept {
		t.row(imageNames(k.References, k.Digest), size(k.Bytes), ago(c.clock(), k.UsedAt), whyKept(k.Reason))
	}
	return t.flush()
}

// imageNames names an image by its references, or by its digest where it has none.
func imageNames(references []string, digest string) string {
	if len(references) == 0 {
		return digest
	}
	return strings.Join(references, ", ")
}

func whyEvicted(reason string) string {
	switch layerstore.Reason(reason) {
	case layerstore.ForSize:
		return "over max_size"
	case layerstore.ForFree:
		return "under min_free"
	case layerstore.ForAge:
		return "older than max_age"
	}
	return reason // of a newer daemon
}

func whyKept(reason string) string {
	switch layerstore.Reason(reason) {
	case layerstore.ByRoot:
		return "pushed or pinned"
	case layerstore.ByLease:
		return "in use"
	case layerstore.ByReader:
		return "being read"
	case layerstore.ByTransfer:
		return "being fetched"
	case layerstore.ByUse:
		return "used a moment ago"
	}
	return reason
}

package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/registry"
)

// drillWish is what drill asks for.
type drillWish struct {
	References []string `json:"references"`
	Recent     string   `json:"recent,omitempty"`
	ForReal    bool     `json:"for_real"`
}

func (c *cli) drillCommand() *cobra.Command {
	var form outputForm
	var file, recent string
	var forReal bool
	cmd := &cobra.Command{
		Use:   "drill [REF…]",
		Short: "Find what could not start if the upstreams went away now",
		Long: `Find which references could not start if every upstream went away now, and why: from what is here
alone, asking nobody. Without references these are all that are pinned, and with --recent those
used lately too. The exit status is 1 if there are any.

"expires" could start now, and not for long or not again: a right that ends, or a login of ours that
the registry refuses.

A layer that is "dropped, unpacked here" is started from through the snapshotter, and no other way.

--for-real reads every blob and checks its digest, rather than looking whether it is there.`,
		Example: "  imagecache drill\n  imagecache drill --recent 7d\n  imagecache drill --file images.txt --for-real\n  imagecache drill docker.io/library/postgres:17 -o json",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			refs, err := c.optionalReferences(cmd, args, file)
			if err != nil {
				return err
			}
			if (file != "" || len(args) > 0) && len(refs) == 0 {
				return fmt.Errorf("the list of references is empty")
			}
			span, err := parseDays(recent)
			if err != nil {
				return wrongUse(cmd, "--recent: %s", err)
			}
			return c.drill(cmd, drillWish{append([]string{}, refs...), span.String(), forReal}, form)
		},
		ValidArgsFunction: c.completeReferences("/api/v1/images", "images"),
	}
	addFileFlag(cmd, &file)
	cmd.Flags().StringVar(&recent, "recent", "", "also what was used within this `TIME`, as in 12h or 7d")
	cmd.Flags().BoolVar(&forReal, "for-real", false, "read and check every blob")
	addOutputFlag(cmd, &form)
	return cmd
}

// parseDays takes a duration, or days as in 7d.
func parseDays(value string) (time.Duration, error) {
	if value == "" {
		return 0, nil
	}
	if days, ok := strings.CutSuffix(value, "d"); ok {
		n, err := parseDuration(days + "h")
		return 24 * n, err
	}
	return parseDuration(value)
}

func (c *cli) drill(cmd *cobra.Command, wish drillWish, form outputForm) error {
	client, err := c.client(cmd)
	if err != nil {
		return err
	}
	content, err := client.post(cmd.Context(), "/api/v1/drill", wish)
	if err != nil {
		return asMisuse(cmd, err)
	}
	drilled, err := decode[registry.Drilled](content)
	if err != nil {
		return err
	}
	if form == formJSON {
		err = printRawJSON(c.out, json.RawMessage(content))
	} else {
		err = c.printDrilled(drilled)
	}
	if err == nil && drilled.Failing > 0 {
		return errReported
	}
	return err
}

func (c *cli) printDrilled(drilled registry.Drilled) error {
	for _, ref := range drilled.References {
		state := "ok"
		switch {
		case !ref.OK:
			state = "FAILS"
		case len(ref.Expires) > 0:
			state = "expires"
		}
		fmt.Fprintf(c.out, "%-7s %s\n", state, printable(ref.Reference))
		for _, lack := range slices.Concat(ref.Lacks, ref.Expires, ref.Dropped) {
			fmt.Fprintf(c.out, "        %s\n", printable(lack.String()))
		}
	}
	read := ""
	if drilled.ForReal {
		read = fmt.Sprintf("; %s in %s read", size(drilled.Bytes), plural(drilled.Blobs, "blob"))
	}
	_, err := fmt.Fprintf(c.out, "%d of %s could not start without upstream%s\n", drilled.Failing, plural(len(drilled.References), "reference"), read)
	return err
}

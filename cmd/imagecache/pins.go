package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/registry"
)

func (c *cli) pinsCommand() *cobra.Command {
	var form outputForm
	var drift bool
	cmd := &cobra.Command{
		Use:   "pins",
		Short: "List what is pinned, and how complete it is",
		Long: `List what is pinned: its digest, its platforms, how much of it is here, and since when.

--drift asks each upstream where the reference points to now. That needs the upstreams; one that
does not answer shows as unknown, with the reason.`,
		Example: "  imagecache pins\n  imagecache pins --drift\n  imagecache pins -o json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := url.Values{}
			if drift {
				query.Set("drift", "true")
			}
			return c.showAnswer(cmd, "/api/v1/pins", query, form, func(content json.RawMessage) error {
				return c.printPins(content, drift)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&drift, "drift", false, "ask the upstreams where the references point to now")
	addOutputFlag(cmd, &form)
	return cmd
}

// showAnswer asks for a document and prints it, as it came or as a table.
func (c *cli) showAnswer(cmd *cobra.Command, path string, query url.Values, form outputForm, show func(json.RawMessage) error) error {
	client, err := c.client(cmd)
	if err != nil {
		return err
	}
	content, err := client.get(cmd.Context(), path, query)
	if err != nil {
		return asMisuse(cmd, err)
	}
	if form == formJSON {
		return printRawJSON(c.out, content)
	}
	return show(content)
}

// decode reads an answer of the daemon.
func decode[T any](content json.RawMessage) (T, error) {
	var answer T
	if err := json.Unmarshal(content, &answer); err != nil {
		return answer, fmt.Errorf("the daemon's answer is not understood: %w", err)
	}
	return answer, nil
}

func (c *cli) printPins(content json.RawMessage, drift bool) error {
	answer, err := decode[struct {
		Pins []registry.Pin `json:"pins"`
	}](content)
	if err != nil {
		return err
	}
	columns := []string{"REFERENCE", "DIGEST", "PLATFORMS", "COMPLETE", "SIZE", "PINNED"}
	if drift {
		columns = append(columns, "UPSTREAM")
	}
	t := newTable(c.out, columns...)
	for _, pin := range answer.Pins {
		cells := []string{pin.Reference, shortDigest(pin.Digest), strings.Join(pin.Platforms, ","),
			completeness(pin.Complete, pin.Have, pin.Want), size(pin.Size), ago(c.clock(), pin.PinnedAt)}
		if drift {
			cells = append(cells, driftText(pin))
		}
		t.row(cells...)
	}
	return t.flush()
}

// driftText says where upstream is: "same", "moved to 0123456789ab", "unknown: why".
func driftText(pin registry.Pin) string {
	switch {
	case pin.Drift == "moved" && pin.UpstreamDigest != "":
		return "moved to " + shortDigest(pin.UpstreamDigest)
	case pin.DriftReason != "":
		return pin.Drift + ": " + pin.DriftReason
	}
	return pin.Drift
}

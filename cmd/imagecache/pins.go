package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/registry"
)

func (c *cli) pinsCommand() *cobra.Command {
	var form outputForm
	var drift bool
	cmd := &cobra.Command{
		Use:   "pins [REF…]",
		Short: "List what is pinned, and how complete it is",
		Long: `List what is pinned: its digest, its platforms, how it stands, and since when.

A pin is complete; or filling, with how much of it is here; or unreachable, since when and why; or
drifted: complete, and its upstream's tag means another digest now. The daemon looks for drift about
once an hour. --drift asks the upstreams now, and shows what changed: layers, size, and
what the container is started with. An upstream that does not answer shows as unknown, with the reason.`,
		Example: "  imagecache pins\n  imagecache pins --drift\n  imagecache pins --drift docker.io/library/postgres:17 -o json",
		Args:    c.pinsArgs,
		RunE: func(cmd *cobra.Command, refs []string) error {
			query := url.Values{}
			if len(refs) > 0 {
				query["ref"] = refs
			}
			if drift {
				query.Set("drift", "true")
			}
			return c.showAnswer(cmd, "/api/v1/pins", query, form, func(content json.RawMessage) error {
				return c.printPins(content, drift)
			})
		},
		ValidArgsFunction: c.completeReferences("/api/v1/pins", "pins"),
	}
	cmd.Flags().BoolVar(&drift, "drift", false, "ask the upstreams where the references point to now, and show what changed")
	addOutputFlag(cmd, &form)
	cmd.AddCommand(c.pinsExportCommand(), c.pinsApplyCommand(), c.pinsRollbackCommand())
	return cmd
}

// pinsArgs takes references, and finds a subcommand that was misspelt: as a reference it would be one of Docker Hub.
func (c *cli) pinsArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !strings.ContainsAny(args[0], "/:.@") {
		if near, ok := nearest(args[0], []string{"export", "apply", "rollback"}); ok {
			return wrongUse(cmd, "there is no command %q; did you mean %q?", "pins "+args[0], near)
		}
	}
	return referenceArgs(cmd, args)
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
	columns := []string{"REFERENCE", "DIGEST", "PLATFORMS", "STATE", "SIZE", "PINNED"}
	if drift {
		columns = append(columns, "UPSTREAM")
	}
	now := c.clock()
	t := newTable(c.out, columns...)
	for _, pin := range answer.Pins {
		cells := []string{pin.Reference, shortDigest(pin.Digest), strings.Join(pin.Platforms, ","),
			pinState(pin, now), size(pin.Size), ago(now, pin.PinnedAt)}
		if drift {
			cells = append(cells, driftText(pin))
		}
		t.row(cells...)
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, pin := range answer.Pins {
		if pin.Change != nil && drift {
			c.printChange(pin)
		}
	}
	return nil
}

// pinState says how a pin stands: "complete", "filling, 7 of 9", "unreachable for 2 hours, 7 of 9: why", "drifted to 0123456789ab".
func pinState(pin registry.Pin, now time.Time) string {
	switch pin.State {
	case registry.PinUnreachable:
		return fmt.Sprintf("unreachable for %s, %d of %d: %s", strings.ToLower(units.HumanDuration(now.Sub(pin.Since))), pin.Have, pin.Want, pin.Error)
	case registry.PinFilling:
		return fmt.Sprintf("filling, %d of %d", pin.Have, pin.Want)
	case registry.PinDrifted:
		return "drifted to " + shortDigest(pin.UpstreamDigest)
	case registry.PinComplete:
		return pin.State + unpackedOnly(pin.Dropped)
	}
	return completeness(pin.Complete, pin.Have, pin.Want)
}

// driftText says where upstream is: "same", "moved to 0123456789ab", "unknown: why".
func driftText(pin registry.Pin) string {
	switch {
	case pin.Drift == registry.DriftMoved && pin.UpstreamDigest != "":
		return "moved to " + shortDigest(pin.UpstreamDigest)
	case pin.DriftReason != "":
		return pin.Drift + ": " + pin.DriftReason
	}
	return pin.Drift
}

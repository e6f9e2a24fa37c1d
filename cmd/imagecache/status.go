package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/registry"
)

func (c *cli) statusCommand() *cobra.Command {
	var form outputForm
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Show how the daemon and its upstreams are",
		Long:    "Show how the daemon and its upstreams are, what was asked since it started, and how that was answered.",
		Example: "  imagecache status\n  imagecache status -o json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.showAnswer(cmd, "/api/v1/status", nil, form, c.printStatus)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	addOutputFlag(cmd, &form)
	return cmd
}

func (c *cli) printStatus(content json.RawMessage) error {
	status, err := decode[registry.Status](content)
	if err != nil {
		return err
	}
	now := c.clock()
	fmt.Fprintf(c.out, "imagecache %s, up %s\n", printable(status.Version), strings.ToLower(units.HumanDuration(now.Sub(status.StartedAt))))
	fmt.Fprintf(c.out, "listen   %s\nroot     %s\n", printable(status.Listen), printable(status.Root))
	if !status.Writable {
		fmt.Fprintf(c.out, "         cannot be written: %s\n", printable(status.WritableReason))
	}
	fmt.Fprintf(c.out, "asked    %d: %d hit, %d miss, %d joined, %d stale, %d bypassed\n",
		status.Gets, status.Hits, status.Misses, status.Joined, status.Stale, status.Bypassed)
	fmt.Fprintf(c.out, "bytes    %s served, %s fetched\n", size(status.BytesServed), size(status.BytesFetched))
	c.printRot(status)
	fmt.Fprintf(c.out, "pins     %d, %d incomplete, %d drifted\n", status.Pins, status.PinsIncomplete, status.PinsDrifted)
	if status.DrillFailing != nil && *status.DrillFailing > 0 {
		fmt.Fprintf(c.out, "drill    %s could not start without upstream: see imagecache drill --recent 7d\n", plural(*status.DrillFailing, "reference"))
	}
	if l := status.Lockfile; l != nil {
		fmt.Fprintf(c.out, "lockfile %s\n", printable(lockfileText(*l, now)))
	}
	fmt.Fprintf(c.out, "flights  %d\n\n", status.Flights)
	t := newTable(c.out, "UPSTREAM", "URL", "STATE", "REQUESTS", "FAILURES", "LOGIN", "LAST ERROR")
	for _, u := range status.Upstreams {
		t.row(u.Name, u.URL, upstreamState(u, now), fmt.Sprint(u.Requests), fmt.Sprint(u.Failures), yesNo(u.Authenticated), lastError(u, now))
	}
	return t.flush()
}

func upstreamState(u registry.UpstreamStatus, now time.Time) string {
	if left := u.BackoffUntil.Sub(now); left > 0 {
		return fmt.Sprintf("%s, for %s", u.State, left.Round(time.Second))
	}
	return u.State
}

func lastError(u registry.UpstreamStatus, now time.Time) string {
	if u.LastError == "" {
		return ""
	}
	if u.LastErrorAt.IsZero() {
		return u.LastError
	}
	return fmt.Sprintf("%s (%s)", u.LastError, ago(now, u.LastErrorAt))
}

// lockfileText says how it goes with the lockfile that is followed.
func lockfileText(l registry.LockfileStatus, now time.Time) string {
	text := l.Path + ", not applied yet"
	if !l.AppliedAt.IsZero() {
		text = fmt.Sprintf("%s, %s, applied %s", l.Path, plural(l.Pins, "pin"), ago(now, l.AppliedAt))
	}
	if l.Differ > 0 {
		text += fmt.Sprintf("; %s not as it says", plural(l.Differ, "pin"))
	}
	if l.Error != "" {
		text += "; now it cannot be: " + l.Error
	}
	return text
}

package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/api"
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
	status, err := decode[shownStatus](content)
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
	c.printRot(status.Status)
	c.printSnapshotter(status.Snapshotter)
	fmt.Fprintf(c.out, "pins     %d, %d incomplete, %d drifted\n", status.Pins, status.PinsIncomplete, status.PinsDrifted)
	if status.DrillFailing != nil && *status.DrillFailing > 0 {
		fmt.Fprintf(c.out, "drill    %s could not start without upstream: see imagecache drill --recent 7d\n", plural(*status.DrillFailing, "reference"))
	}
	if status.DrillExpiring != nil && *status.DrillExpiring > 0 {
		fmt.Fprintf(c.out, "drill    %s could, and not for long: see imagecache drill --recent 7d\n", plural(*status.DrillExpiring, "reference"))
	}
	if l := status.Lockfile; l != nil {
		fmt.Fprintf(c.out, "lockfile %s\n", printable(lockfileText(*l, now)))
	}
	fmt.Fprintf(c.out, "flights  %d\n\n", status.Flights)
	t := newTable(c.out, "UPSTREAM", "URL", "STATE", "REQUESTS", "FAILURES", "LOGIN", "ALLOWANCE", "LAST ERROR")
	for _, u := range status.Upstreams {
		rowOf(t, u.Name, u, now)
		for _, m := range u.Mirrors {
			rowOf(t, "  mirror "+m.Name, m, now)
		}
	}
	return t.flush()
}

func rowOf(t *table, name string, u registry.UpstreamStatus, now time.Time) {
	t.row(name, u.URL, upstreamState(u, now), fmt.Sprint(u.Requests), fmt.Sprint(u.Failures), yesNo(u.Authenticated), allowance(u), lastError(u, now))
}

// allowance tells what of a rate limit is left, and whether it is being kept for what is not cached.
func allowance(u registry.UpstreamStatus) string {
	a := u.Allowance
	switch {
	case a == nil:
		return ""
	case a.Kept:
		return fmt.Sprintf("%d of %d, kept", a.Remaining, a.Limit)
	}
	return fmt.Sprintf("%d of %d", a.Remaining, a.Limit)
}

// shownStatus is what the daemon tells of itself and of what stands beside the registry.
type shownStatus struct {
	registry.Status
	Snapshotter *api.SnapshotterStatus `json:"snapshotter"`
}

// printSnapshotter tells of layers given to containerd, where they are.
func (c *cli) printSnapshotter(s *api.SnapshotterStatus) {
	if s == nil {
		return
	}
	var missed, forms int64
	for _, n := range s.Missed {
		missed += n
	}
	for _, n := range s.Forms {
		forms += int64(n)
	}
	fmt.Fprintf(c.out, "layers   %d given unpacked, %d not; %d kept unpacked, %s, %d in use\n",
		s.Taken+s.Reused, missed, forms, size(s.FormBytes), s.FormsInUse)
	if s.Lost > 0 || s.Mended > 0 {
		fmt.Fprintf(c.out, "         lost by the disk: %d made again, %d could not be\n", s.Mended, s.Lost)
	}
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

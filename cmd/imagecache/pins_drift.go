package main

import (
	"fmt"

	"github.com/docker/go-units"

	"github.com/imagecache/imagecache/registry"
)

// printChange shows what changed from a pin to where its upstream moved.
func (c *cli) printChange(pin registry.Pin) {
	fmt.Fprintf(c.out, "\n%s\n  %s -> %s\n", printable(pin.Reference), printable(pin.Change.From), printable(pin.Change.To))
	if pin.Change.Reason != "" {
		fmt.Fprintf(c.out, "  what changed is not known: %s\n", printable(pin.Change.Reason))
	}
	for _, p := range pin.Change.Platforms {
		if p.Reason != "" {
			fmt.Fprintf(c.out, "  %s: what changed is not known: %s\n", printable(p.Platform), printable(p.Reason))
			continue
		}
		fmt.Fprintf(c.out, "  %s: %s kept, %d added, %d dropped, %s -> %s (%s)\n", printable(p.Platform), plural(p.Kept, "layer"),
			len(p.Added), len(p.Dropped), size(p.SizeFrom), size(p.SizeTo), sizeDifference(p.SizeTo-p.SizeFrom))
		for _, l := range p.Dropped {
			fmt.Fprintf(c.out, "    - layer %s %s\n", shortDigest(l.Digest), size(l.Size))
		}
		for _, l := range p.Added {
			fmt.Fprintf(c.out, "    + layer %s %s\n", shortDigest(l.Digest), size(l.Size))
		}
		for _, v := range p.Config {
			c.printChangedValue(v)
		}
	}
}

func (c *cli) printChangedValue(v registry.ChangedValue) {
	name := v.Field
	if v.Name != "" {
		name += " " + v.Name
	}
	if v.From != nil {
		fmt.Fprintf(c.out, "    - %s\n", printable(valueText(name, *v.From)))
	}
	if v.To != nil {
		fmt.Fprintf(c.out, "    + %s\n", printable(valueText(name, *v.To)))
	}
}

func valueText(name, value string) string {
	if value == "" {
		return name
	}
	return name + "=" + value
}

func sizeDifference(bytes int64) string {
	if bytes < 0 {
		return "-" + units.BytesSize(float64(-bytes))
	}
	return "+" + units.BytesSize(float64(bytes))
}

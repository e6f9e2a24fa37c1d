//go:build e2e

package e2e

import (
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// figureRounds is how often each pull is timed; IMAGECACHE_FIGURES sets more than the one that shows that it can be done.
func figureRounds(t *testing.T) int {
	t.Helper()
	text := os.Getenv("IMAGECACHE_FIGURES")
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("IMAGECACHE_FIGURES is %q: want a number of rounds", text)
	}
	return n
}

// How long pulls of a Debian take, with this snapshotter and with overlayfs through the same mirror, in turns. It asserts nothing about
// time: a busy machine would decide.
func TestPullFigures(t *testing.T) {
	rounds, form := figureRounds(t), bestForm(t)
	upstream := startRegistry(t, nil)
	tree := debianImage(t, "tree")
	image := &shipped{tag: "team/tree:12", what: tree, runs: tree}
	image.digest = upstream.push(t, image.tag, image.what)
	var cold, coldOverlay, cached, cachedOverlay []time.Duration
	for range rounds {
		for _, ours := range []bool{true, false} {
			d := startUnpacking(t, upstream.url(), form)
			c := startSnapshotting(t, containerd24, d, false)
			overlay := *c
			overlay.snapshotter = "overlayfs"
			if ours {
				cold = append(cold, timePull(t, c, image))
				cached = append(cached, timePull(t, c, image))
				cachedOverlay = append(cachedOverlay, timePull(t, &overlay, image))
			} else {
				d.proc.stop()
				d = startDaemon(t, upstream.url())
				overlay.hosts += "-plain"
				d.install(t, overlay.hosts)
				coldOverlay = append(coldOverlay, timePull(t, &overlay, image))
			}
			c.proc.stop()
			d.proc.stop()
		}
	}
	told := func(what string, ours, theirs []time.Duration) {
		t.Logf("%s: %v, with overlayfs %v: %.3f of it (medians of %d)", what, median(ours), median(theirs),
			float64(median(ours))/float64(median(theirs)), rounds)
	}
	told("pull of a cached image as "+form, cached, cachedOverlay)
	told("cold pull, unpacked ahead as "+form, cold, coldOverlay)
}

// timePull pulls an image and removes it again.
func timePull(t *testing.T, c *containerd, image *shipped) time.Duration {
	t.Helper()
	began := time.Now()
	c.pull(t, image.reference())
	took := time.Since(began)
	c.ctr(t, "images", "rm", "--sync", image.reference())
	return took
}

func median(of []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[len(sorted)/2]
}

package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/imagecache/imagecache/registry"
)

const (
	redrawEvery = 100 * time.Millisecond // as fast as an eye follows
	plainEvery  = time.Second            // in a log
	rateSpan    = 3 * time.Second        // a rate over less than this jumps about
)

// progressLine tells people how far a reference is: one line that is drawn again on a terminal, a line now and then elsewhere.
type progressLine struct {
	w       io.Writer
	redraws bool
	now     func() time.Time

	drawn   time.Time
	onLine  bool // the terminal's line holds something
	sampled time.Time
	before  int64   // bytes done when sampled
	rate    float64 // bytes a second, 0 when unknown
}

// show takes one event.
func (p *progressLine) show(event registry.Progress) {
	p.draw(event.BytesDone, func(rate float64) string { return progressText(event, rate) })
}

// bytes tells how many bytes have come, of how many if that is known.
func (p *progressLine) bytes(what string, done, total int64) {
	if p.drawn.IsZero() && !p.redraws {
		p.drawn = p.now() // a log is told of what takes its time
	}
	p.draw(done, func(rate float64) string { return bytesText(what, done, total, rate) })
}

// draw draws a text, unless one was drawn a moment ago.
func (p *progressLine) draw(done int64, text func(rate float64) string) {
	now := p.now()
	p.measure(now, done)
	every := plainEvery
	if p.redraws {
		every = redrawEvery
	}
	if !p.drawn.IsZero() && now.Sub(p.drawn) < every {
		return
	}
	p.drawn = now
	if p.redraws {
		fmt.Fprintf(p.w, "\r\x1b[K%s", text(p.rate)) // carriage return, erase to the end of the line
		p.onLine = true
		return
	}
	fmt.Fprintln(p.w, text(p.rate))
}

// measure keeps the rate: bytes since the last sample, smoothed with what it was.
func (p *progressLine) measure(now time.Time, done int64) {
	if p.sampled.IsZero() || done < p.before {
		p.sampled, p.before = now, done
		return
	}
	span := now.Sub(p.sampled)
	if span < rateSpan/3 {
		return
	}
	latest := float64(done-p.before) / span.Seconds()
	weight := min(1, span.Seconds()/rateSpan.Seconds())
	if p.rate == 0 {
		weight = 1
	}
	p.rate += (latest - p.rate) * weight
	p.sampled, p.before = now, done
}

// clear takes the line off a terminal again, so that what follows begins on an empty one.
func (p *progressLine) clear() {
	if p.onLine {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.onLine = false
	}
}

// progressText is one event in words: "docker.io/library/nginx:1.27  42%  3/7 blobs  12MiB/29MiB  4.1MiB/s".
func progressText(event registry.Progress, rate float64) string {
	name := printable(event.Reference)
	if event.Phase == "resolve" || event.BlobsTotal == 0 {
		return name + "  asking"
	}
	parts := []string{name}
	if event.BytesTotal > 0 {
		// Rounded down: 100 % is said when it is so.
		parts = append(parts, fmt.Sprintf("%d%%", min(100, event.BytesDone*100/event.BytesTotal)))
	}
	parts = append(parts, fmt.Sprintf("%d/%d blobs", event.BlobsDone, event.BlobsTotal))
	bytes := units.BytesSize(float64(event.BytesDone))
	if event.BytesTotal > 0 {
		bytes += "/" + units.BytesSize(float64(event.BytesTotal))
	}
	parts = append(parts, bytes)
	if rate > 0 {
		parts = append(parts, units.BytesSize(rate)+"/s")
	}
	return strings.Join(parts, "  ")
}

// bytesText is how far a file has come: "importing images.tar  42%  12MiB/29MiB  4.1MiB/s".
func bytesText(what string, done, total int64, rate float64) string {
	parts := []string{printable(what)}
	count := units.BytesSize(float64(done))
	if total > 0 {
		parts = append(parts, fmt.Sprintf("%d%%", min(100, done*100/total)))
		count += "/" + units.BytesSize(float64(total))
	}
	parts = append(parts, count)
	if rate > 0 {
		parts = append(parts, units.BytesSize(rate)+"/s")
	}
	return strings.Join(parts, "  ")
}

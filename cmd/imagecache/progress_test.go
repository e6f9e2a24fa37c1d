package main

import (
	"strings"
	"testing"
	"time"

	"github.com/imagecache/imagecache/registry"
)

func TestProgressInALogIsALineASecond(t *testing.T) {
	now := time.Unix(0, 0)
	var out strings.Builder
	line := &progressLine{w: &out, now: func() time.Time { return now }}
	for i := range 30 {
		line.show(registry.Progress{Reference: "r", Phase: "fetch", BlobsDone: 1, BlobsTotal: 3, BytesDone: int64(i) << 20, BytesTotal: 40 << 20})
		now = now.Add(100 * time.Millisecond)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines in three seconds:\n%s", len(lines), out.String())
	}
	if want := "r  50%  1/3 blobs  20MiB/40MiB  10MiB/s"; lines[2] != want {
		t.Errorf("the last line is %q, want %q", lines[2], want)
	}
	if strings.ContainsAny(out.String(), "\r\x1b") {
		t.Error("a log is drawn on")
	}
}

func TestProgressOnATerminalIsOneLineThatGoesAway(t *testing.T) {
	var out strings.Builder
	line := &progressLine{w: &out, redraws: true, now: func() time.Time { return time.Unix(0, 0) }}
	line.show(registry.Progress{Reference: "r", Phase: "resolve"})
	line.clear()
	if got, want := out.String(), "\r\x1b[Kr  asking\r\x1b[K"; got != want {
		t.Errorf("drew %q, want %q", got, want)
	}
}

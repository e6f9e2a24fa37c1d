package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/imagecache/imagecache/registry"
)

// pinsThatDiffer stand for a registry that tells how many pins are not as a lock has them.
type pinsThatDiffer struct{ differ, applied int }

func (p *pinsThatDiffer) Apply(_ context.Context, _ registry.Lock, o registry.ApplyOptions) (registry.Applied, error) {
	changed := registry.Applied{Changes: make([]registry.AppliedChange, p.differ), DryRun: o.DryRun}
	if !o.DryRun {
		p.applied++
		p.differ = 0
	}
	return changed, nil
}

func TestALockfileIsMadeSoAgainWhenPinsAreNotAsItSays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pins.lock")
	writeFile(t, path, "version = 1\n", 0o600)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	pins := &pinsThatDiffer{}
	f := newLockFollower(path, pins, slog.New(slog.DiscardHandler), func() time.Time { return now })
	f.look(t.Context())
	f.look(t.Context())
	if pins.applied != 1 || f.Status().Differ != 0 {
		t.Fatalf("applied %d times, %+v", pins.applied, f.Status())
	}
	pins.differ = 2
	if s := f.Status(); s.Differ != 2 || !strings.Contains(lockfileText(*s, now), "2 pins not as it says") {
		t.Errorf("%+v: %s", s, lockfileText(*s, now))
	}
	f.look(t.Context())
	if pins.applied != 2 || f.Status().Differ != 0 {
		t.Errorf("applied %d times, %+v", pins.applied, f.Status())
	}
}

package main

import (
	"log/slog"
	"strings"
	"testing"
)

func TestOnlyRootServesTheSnapshotter(t *testing.T) {
	d := &daemon{settings: &Settings{Root: t.TempDir(), Snapshotter: SnapshotterSettings{Address: "/run/s.sock", Form: "auto"}}, log: slog.New(slog.DiscardHandler)}
	if err := d.openForms(1000); err == nil || !strings.Contains(err.Error(), "only root may") {
		t.Errorf("for another user: %v", err)
	}
	d.settings.Snapshotter.Address = ""
	if err := d.openForms(1000); err != nil || d.rootfs != nil || d.rootfs.passed() != nil || d.rootfs.status() != nil || d.rootfs.close() != nil {
		t.Errorf("without an address: %v, %v", d.rootfs, err)
	}
}

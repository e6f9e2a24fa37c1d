package main

import (
	"strings"
	"testing"
	"time"

	"github.com/imagecache/imagecache/mount"
)

func TestSnapshotterSettings(t *testing.T) {
	s := &Settings{Snapshotter: defaultSnapshotter()}
	if s.Snapshotter.Address != "" || s.Snapshotter.Form != "auto" || s.Snapshotter.PrepareWait != mount.DefaultPrepareWait || s.Snapshotter.Unpack != "ahead" ||
		s.Snapshotter.DropLayers != "never" || s.Snapshotter.DropAfter != 10*time.Minute {
		t.Errorf("by default it is %+v", s.Snapshotter)
	}
	for _, set := range [][2]string{
		{"snapshotter.address", "unix:///run//imagecache/snapshotter.sock"}, {"snapshotter.form", "directory"},
		{"snapshotter.prepare_wait", "90s"}, {"snapshotter.unpack", "wanted"},
		{"snapshotter.drop_layers", "unpinned"}, {"snapshotter.drop_after", "1h"},
	} {
		if err := setSnapshotter(s, set[0], set[1]); err != nil {
			t.Error(err)
		}
	}
	want := SnapshotterSettings{Address: "/run/imagecache/snapshotter.sock", Form: "directory", PrepareWait: 90 * time.Second, Unpack: "wanted",
		DropLayers: "unpinned", DropAfter: time.Hour}
	if s.Snapshotter != want {
		t.Errorf("got %+v, want %+v", s.Snapshotter, want)
	}
	if err := setSnapshotter(s, "snapshotter.address", ""); err != nil || s.Snapshotter.Address != "" {
		t.Errorf("an empty address: %q, %v", s.Snapshotter.Address, err)
	}
}

func TestSnapshotterSettingsRefuse(t *testing.T) {
	for _, refused := range [][3]string{
		{"snapshotter.address", "snapshotter.sock", "absolute path"},
		{"snapshotter.address", "/" + strings.Repeat("x", 107), "at most 107 bytes"},
		{"snapshotter.form", "tar", "auto, directory or erofs"},
		{"snapshotter.unpack", "true", "ahead or wanted"},
		{"snapshotter.drop_layers", "always", "never, unpinned or all"},
		{"snapshotter.drop_after", "0s", "less than 1s"},
		{"snapshotter.prepare_wait", "10", "1s, 90s or 5m"},
	} {
		s := &Settings{}
		if err := setSnapshotter(s, refused[0], refused[1]); err == nil || !strings.Contains(err.Error(), refused[2]) {
			t.Errorf("%s = %q: %v, want an error with %q", refused[0], refused[1], err, refused[2])
		}
	}
}

// The flag that turns it on has the table's name.
func TestSnapshotterFlag(t *testing.T) {
	for _, key := range snapshotterKeys() {
		want := map[string]string{"snapshotter.address": "snapshotter", "snapshotter.form": "snapshotter-form",
			"snapshotter.prepare_wait": "snapshotter-prepare-wait", "snapshotter.unpack": "snapshotter-unpack",
			"snapshotter.drop_layers": "snapshotter-drop-layers", "snapshotter.drop_after": "snapshotter-drop-after"}[key.name]
		if key.flag() != want {
			t.Errorf("%s has the flag %q, want %q", key.name, key.flag(), want)
		}
	}
}

func setSnapshotter(s *Settings, name, value string) error {
	for _, key := range snapshotterKeys() {
		if key.name == name {
			return key.set(s, value)
		}
	}
	panic("no key " + name)
}

package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/imagecache/imagecache/mount"
	"github.com/imagecache/imagecache/mount/forms"
	"github.com/imagecache/imagecache/registry"
)

// snapshotterTable is the table of what containerd is given beside the mirror.
const snapshotterTable = "snapshotter"

// SnapshotterSettings say how containerd gets root filesystems from us.
type SnapshotterSettings struct {
	Address     string        // of the unix socket, absolute; "": there is none
	Form        string        // one of forms.Kind…
	PrepareWait time.Duration // 0: a layer that is not here is not waited for
	Unpack      string        // unpackAhead or unpackWanted
	DropLayers  string        // one of registry.Drop…
	DropAfter   time.Duration // that nobody used a compressed layer
}

// When layers are unpacked.
const (
	unpackAhead  = "ahead"  // as soon as their image passes
	unpackWanted = "wanted" // when containerd asks for them
)

// defaultSnapshotter is that of a daemon that nobody has told anything.
func defaultSnapshotter() SnapshotterSettings {
	return SnapshotterSettings{Form: forms.KindAuto, PrepareWait: mount.DefaultPrepareWait, Unpack: unpackAhead,
		DropLayers: registry.DropNever, DropAfter: defaultDropAfter}
}

// snapshotterAddress is the key whose flag is the table's name.
const snapshotterAddress = "snapshotter.address"

// snapshotterKeys lists the settings of the table [snapshotter].
func snapshotterKeys() []scalarKey {
	return []scalarKey{
		{snapshotterAddress, "`SOCKET` on which to serve containerd's snapshotter, an absolute path; empty: none", setSnapshotterAddress,
			func(s *Settings) string { return s.Snapshotter.Address }},
		{"snapshotter.form", "how layers are kept unpacked: auto, directory or erofs",
			choiceSetter(func(s *Settings) *string { return &s.Snapshotter.Form }, forms.KindAuto, forms.KindDirectory, forms.KindEROFS),
			func(s *Settings) string { return s.Snapshotter.Form }},
		{"snapshotter.prepare_wait", "how long containerd waits for a layer that is being unpacked, as in 10m; 0s: not at all",
			durationSetter(func(s *Settings) *time.Duration { return &s.Snapshotter.PrepareWait }),
			func(s *Settings) string { return s.Snapshotter.PrepareWait.String() }},
		{"snapshotter.unpack", "when to unpack layers: ahead, as soon as their image passes, or wanted, when containerd asks for them",
			choiceSetter(func(s *Settings) *string { return &s.Snapshotter.Unpack }, unpackAhead, unpackWanted),
			func(s *Settings) string { return s.Snapshotter.Unpack }},
		{"snapshotter.drop_layers", "which layers are not kept compressed when they are unpacked: never, unpinned (those that no pin needs) or all",
			choiceSetter(func(s *Settings) *string { return &s.Snapshotter.DropLayers }, registry.DropNever, registry.DropUnpinned, registry.DropAll),
			func(s *Settings) string { return s.Snapshotter.DropLayers }},
		{"snapshotter.drop_after", "how long nobody must have used a compressed layer before it is dropped, as in 10m", setDropAfter,
			func(s *Settings) string { return s.Snapshotter.DropAfter.String() }},
	}
}

// defaultDropAfter is long enough for other machines that pull the same image now.
const defaultDropAfter = 10 * time.Minute

// setDropAfter takes a time that is not none: a layer that was fetched a moment ago
// is about to be asked for.
func setDropAfter(s *Settings, value string) error {
	if err := durationSetter(func(s *Settings) *time.Duration { return &s.Snapshotter.DropAfter })(s, value); err != nil {
		return err
	}
	if s.Snapshotter.DropAfter < leastDropAfter {
		return fmt.Errorf("%s is less than %s", value, leastDropAfter)
	}
	return nil
}

// leastDropAfter is what a pull takes between two questions for one layer.
const leastDropAfter = time.Second

// setSnapshotterAddress takes /path, as containerd writes it, or unix:///path.
func setSnapshotterAddress(s *Settings, value string) error {
	path, _ := trimUnix(value)
	switch {
	case path != "" && !filepath.IsAbs(path):
		return fmt.Errorf("%q: want the absolute path of a socket, as in /run/imagecache/snapshotter.sock", value)
	case len(path) > limitSocketPath:
		return fmt.Errorf("%q: a socket's path has at most %d bytes, this has %d", value, limitSocketPath, len(path))
	}
	if path != "" {
		path = filepath.Clean(path)
	}
	s.Snapshotter.Address = path
	return nil
}

// choiceSetter takes one of some words.
func choiceSetter(field func(*Settings) *string, words ...string) func(*Settings, string) error {
	return func(s *Settings, value string) error {
		for _, word := range words {
			if value == word {
				*field(s) = word
				return nil
			}
		}
		return fmt.Errorf("%q is none of %s", value, orList(words))
	}
}

// orList writes "a, b or c".
func orList(words []string) string {
	text := words[0]
	for i, word := range words[1:] {
		if i == len(words)-2 {
			text += " or " + word
			continue
		}
		text += ", " + word
	}
	return text
}

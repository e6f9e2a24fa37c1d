package main

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/platforms"
	"github.com/pelletier/go-toml/v2"
)

const (
	snapshotterName          = "imagecache" // by which containerd knows us
	defaultSnapshotterSocket = "/run/imagecache/snapshotter.sock"
	overlaySnapshotter       = "overlayfs" // containerd's own, and what it takes when nobody says otherwise
)

// proxyTable and transferTable are where containerd's settings name a snapshotter: as a plugin that is elsewhere, and for pulls by ctr and
// others through containerd's transfer service.
var (
	proxyTable    = []string{"proxy_plugins", snapshotterName}
	transferTable = []string{"plugins", "io.containerd.transfer.v1.local", "unpack_config"}
)

// criTables are those that set Kubernetes' snapshotter; the first one says it where there are two. Of settings of version 2, which containerd 1.x
// and 2.x read, 2.x takes the snapshotter over only where runtimes are named beside it (migrateConfig in its plugins/cri/images): so it is said in
// 2.x's own way too, which 1.x passes over.
func criTables(version int64) [][]string {
	current, old := []string{"plugins", "io.containerd.cri.v1.images"}, []string{"plugins", "io.containerd.grpc.v1.cri", "containerd"}
	switch {
	case version >= 3: // 2.x
		return [][]string{current}
	case version == 2:
		return [][]string{old, current}
	}
	return [][]string{{"plugins", "cri", "containerd"}}
}

// snapshotterPlan is what containerd's settings are to say.
type snapshotterPlan struct {
	file    string
	address string // of the socket
	version int64  // of the form of the settings
	before  map[string]any
}

// desiredSnapshotter is what should stand in containerd's settings, where original stands now; nil: nothing stands there.
func desiredSnapshotter(file, address string, original []byte) ([]byte, *snapshotterPlan, error) {
	if len(bytes.TrimSpace(original)) == 0 {
		// Version 2 is read by 1.x and by 2.x.
		original = append(original, "# Written by \"imagecache containerd install\"; \"imagecache containerd uninstall\" takes it away again.\nversion = 2\n"...)
	}
	p := &snapshotterPlan{file: file, address: address, version: 1, before: map[string]any{}}
	if err := toml.Unmarshal(original, &p.before); err != nil {
		return nil, nil, tomlError(file, err)
	}
	if version, known := p.before["version"].(int64); known {
		p.version = version
	}
	if has, _ := valueAt(p.before, append(proxyTable, "capabilities")).([]any); len(has) > 0 {
		return nil, nil, &hintedError{
			fmt.Errorf("%s gives [%s] capabilities that it does not have: with rebase, containers would start with their last layer only", file, tomlPath(proxyTable)),
			"remove the key capabilities there",
		}
	}
	desired, err := editTOML(file, original, p.changes())
	if errors.Is(err, errCannotEdit) {
		return nil, nil, &hintedError{err, "add this by hand:\n" + p.text()}
	}
	return desired, p, err
}

// changes are those that are not made yet.
func (p *snapshotterPlan) changes() []tomlChange {
	changes := []tomlChange{{table: proxyTable, keys: [][2]string{{"type", "snapshot"}, {"address", p.address}}}}
	changes = append(changes, p.unpacking()...)
	for _, table := range criTables(p.version) {
		changes = append(changes, tomlChange{table: table, keys: [][2]string{{"snapshotter", snapshotterName}}})
	}
	var lacking []tomlChange
	for _, c := range changes {
		if !p.says(c) {
			lacking = append(lacking, c)
		}
	}
	return lacking
}

// says tells whether the settings say all of a change already, so that it need not be written again in another way.
func (p *snapshotterPlan) says(c tomlChange) bool {
	for _, key := range c.keys {
		if c.append || valueAt(p.before, append(append([]string{}, c.table...), key[0])) != key[1] {
			return false
		}
	}
	return true
}

// unpacking has the transfer service unpack for us, for this machine's platform. Where nothing names a snapshotter containerd unpacks for its
// own: that is said then, so that it still does.
func (p *snapshotterPlan) unpacking() []tomlChange {
	if p.version < 2 { // which has no name for the transfer service
		return nil
	}
	platform := platforms.DefaultString()
	listed, isList := valueAt(p.before, transferTable).([]any)
	for _, one := range listed {
		if table, ok := one.(map[string]any); ok && table["snapshotter"] == snapshotterName {
			return nil
		}
	}
	names := []string{snapshotterName}
	if !isList {
		names = append(names, overlaySnapshotter)
	}
	var changes []tomlChange
	for _, name := range names {
		changes = append(changes, tomlChange{table: transferTable, append: true, keys: [][2]string{{"platform", platform}, {"snapshotter", name}}})
	}
	return changes
}

// text is what is to be added, for somebody who does it by hand.
func (p *snapshotterPlan) text() string {
	var b strings.Builder
	for _, c := range p.changes() {
		b.WriteString(c.appended(nil))
	}
	return b.String()
}

// planSnapshotter adds what is to change in containerd's settings.
func planSnapshotter(report *changeReport, file, address string) error {
	folder, name := filepath.Split(file)
	h, err := readKeptFile(filepath.Clean(folder), name)
	if err != nil {
		return err
	}
	before := h.original()
	if h.phase == phaseChanged {
		before = h.content // somebody has gone on from what we wrote
	}
	desired, plan, err := desiredSnapshotter(file, address, before)
	if err != nil {
		return err
	}
	report.Notes = append(report.Notes, plan.notes()...)
	if h.content != nil && bytes.Equal(desired, h.content) {
		report.Notes = append(report.Notes, file+" names this snapshotter already")
		return nil
	}
	if h.phase == phaseChanged {
		return &hintedError{
			fmt.Errorf("%s was changed since install:\n%s", file, difference(file, h.saved, h.content)),
			"\"imagecache containerd uninstall --force\" puts back what stood there before; then install again",
		}
	}
	report.Changes = append(report.Changes, plannedChange{
		File:       file,
		Difference: difference(file, h.content, desired),
		apply: func() error {
			// Its folder may have come with the one of hosts.
			now, err := readKeptFile(h.folder, h.name)
			if err != nil {
				return err
			}
			return now.install(desired, nil)
		},
	})
	report.Notes = append(report.Notes, "restart containerd, which reads its settings at the start only; containers run on")
	return nil
}

// notes say what else it depends on.
func (p *snapshotterPlan) notes() []string {
	var notes []string
	if p.version < 2 {
		notes = append(notes, fmt.Sprintf("%s is of version 1, which has no name for containerd's transfer service: for \"ctr images pull\" of containerd 2.x have \"containerd config migrate\" make a newer one", p.file))
	}
	for _, found := range importedSnapshotters(p.file, p.version) {
		if found.name != snapshotterName {
			notes = append(notes, fmt.Sprintf("%s, which %s imports, sets snapshotter = %q for Kubernetes: change it there", found.file, p.file, found.name))
		}
	}
	if err := dialSocket(p.address); err != nil {
		notes = append(notes, fmt.Sprintf("nobody answers at %s (%s): set address = %q under [snapshotter] in imagecache's settings and run it as root before containerd is restarted",
			p.address, err, p.address))
	}
	return notes
}

package main

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"syscall"
	"time"
)

// snapshotterReport is what "containerd check --snapshotter" finds.
type snapshotterReport struct {
	File    string   `json:"file"`    // containerd's settings
	Address string   `json:"address"` // that these name; "" for none
	Answers bool     `json:"answers"` // somebody listens there
	Pulls   bool     `json:"pulls"`   // pulls through the transfer service may use it
	CRI     string   `json:"cri"`     // the snapshotter that Kubernetes' pods get; "" says nothing, which is overlayfs
	Usable  bool     `json:"usable"`
	Reasons []string `json:"reasons"`
}

// checkSnapshotter reads containerd's settings as they stand, and tries the socket that they name.
func checkSnapshotter(file string) *snapshotterReport {
	r := &snapshotterReport{File: file, Reasons: []string{}}
	document, err := readTOML(file)
	if err != nil {
		r.Reasons = append(r.Reasons, err.Error())
		return r
	}
	version, known := document["version"].(int64)
	if !known {
		version = 1
	}
	r.Address, _ = valueAt(document, append(proxyTable, "address")).(string)
	listed, _ := valueAt(document, transferTable).([]any)
	for _, one := range listed {
		table, _ := one.(map[string]any)
		r.Pulls = r.Pulls || table["snapshotter"] == snapshotterName
	}
	r.CRI = criSnapshotter(document, version)
	for _, found := range importedSnapshotters(file, version) {
		r.CRI = found.name // what is imported wins
	}
	r.judge(document)
	return r
}

// criSnapshotter is what a document sets for Kubernetes, "" for nothing.
func criSnapshotter(document map[string]any, version int64) string {
	for _, table := range criTables(version) {
		if name, _ := valueAt(document, append(table, "snapshotter")).(string); name != "" {
			return name
		}
	}
	return ""
}

func (r *snapshotterReport) judge(document map[string]any) {
	switch kind := valueAt(document, append(proxyTable, "type")); {
	case r.Address == "":
		r.Reasons = append(r.Reasons, fmt.Sprintf("%s names no snapshotter of ours: run \"imagecache containerd install --snapshotter\"", r.File))
	case kind != "snapshot":
		r.Reasons = append(r.Reasons, fmt.Sprintf("[%s] has type %v, not snapshot", tomlPath(proxyTable), kind))
	default:
		err := dialSocket(r.Address)
		r.Answers = err == nil
		if err != nil {
			r.Reasons = append(r.Reasons, fmt.Sprintf("nobody answers at %s: %s", r.Address, err))
		}
		r.Usable = r.Answers
	}
	if has, _ := valueAt(document, append(proxyTable, "capabilities")).([]any); len(has) > 0 {
		r.Usable = false
		r.Reasons = append(r.Reasons, fmt.Sprintf("[%s] has capabilities, which it must not: remove them", tomlPath(proxyTable)))
	}
	if r.Usable && !r.Pulls {
		r.Reasons = append(r.Reasons, "pulls by ctr of containerd 2.x do not use it: there is no unpack_config for it")
	}
	if r.Usable && r.CRI != snapshotterName {
		r.Reasons = append(r.Reasons, fmt.Sprintf("Kubernetes' pods do not use it, but %s", orElse(r.CRI, overlaySnapshotter)))
	}
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

// dialPatience is how long somebody on this machine may take to accept.
const dialPatience = time.Second

func dialSocket(path string) error {
	connection, err := net.DialTimeout("unix", path, dialPatience)
	if err == nil {
		return connection.Close()
	}
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return errno
	}
	return err
}

// importedSnapshotter is what an imported file says.
type importedSnapshotter struct{ file, name string }

// importedSnapshotters are the snapshotters for Kubernetes that imported files set, the one that wins last.
func importedSnapshotters(file string, version int64) (found []importedSnapshotter) {
	document, err := readTOML(file)
	if err != nil {
		return nil
	}
	imports, _ := document["imports"].([]any)
	for _, pattern := range imports {
		text, _ := pattern.(string)
		if !filepath.IsAbs(text) {
			text = filepath.Join(filepath.Dir(file), text)
		}
		files, _ := filepath.Glob(text) // containerd itself tells about a bad pattern
		for _, imported := range files {
			content, err := readTOML(imported)
			if err != nil {
				continue
			}
			if own, known := content["version"].(int64); known {
				version = own
			}
			if name := criSnapshotter(content, version); name != "" {
				found = append(found, importedSnapshotter{imported, name})
			}
		}
	}
	return found
}

func (c *cli) printSnapshotterCheck(r *snapshotterReport, form outputForm) error {
	if form == formJSON {
		if err := printJSON(c.out, map[string]*snapshotterReport{"snapshotter": r}); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(c.out, "containerd's settings  %s\nsnapshotter            %s\nfor Kubernetes         %s\n\n",
			r.File, orElse(r.Address, "none"), orElse(r.CRI, overlaySnapshotter))
		verdict := "containerd can use this cache's snapshotter"
		if !r.Usable {
			verdict = "containerd can NOT use this cache's snapshotter"
		}
		fmt.Fprintln(c.out, verdict)
		for _, reason := range r.Reasons {
			fmt.Fprintf(c.out, "note: %s\n", printable(reason))
		}
	}
	if !r.Usable {
		return errReported
	}
	return nil
}

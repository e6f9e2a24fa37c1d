package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// What install leaves beside a file of containerd's, a hosts.toml or its config.toml, so that uninstall can put back exactly what stood there. containerd reads none of these.
const (
	hostsName   = "hosts.toml"
	suffixSaved = ".imagecache-saved" // what stood there before: the file itself, under another name
	suffixState = ".imagecache-state" // the record below
	suffixNew   = ".imagecache-new"   // a file that is being written
	madeName    = ".imagecache-made"  // in a folder that install made: it goes when nothing else is in it
	newTreeName = ".imagecache-new"   // a folder that is being made, or taken away
	limitHosts  = 1 << 20             // bytes of such a file; containerd's own examples have a hundredth
)

// hostsRecord says what install did to one file. It is written before the file is, and removed after it was put back.
type hostsRecord struct {
	Version  int      `json:"version"`
	Wrote    []string `json:"wrote"`    // SHA-256 of what we wrote; two while one is replaced by the other
	Original string   `json:"original"` // SHA-256 of what stood there, "" for nothing
}

// hostsPhase is how far install or uninstall came with one file.
type hostsPhase int

const (
	phaseNone      hostsPhase = iota // not installed here
	phaseHalfway                     // killed on the way in or out: the original stands, our record too
	phaseInstalled                   // what we wrote stands
	phaseChanged                     // installed, and changed by somebody since
)

// hostsFile is one hosts.toml, or containerd's config.toml, as it stands, with what we know about it.
type hostsFile struct {
	folder   string
	name     string
	registry string // of a hosts.toml; "" for the default folder

	info     fs.FileInfo // nil: no file
	content  []byte      // nil: no file
	saved    []byte      // what stood before, nil: nothing saved
	record   *hostsRecord
	phase    hostsPhase
	noFolder bool
}

func (h *hostsFile) path() string    { return filepath.Join(h.folder, h.name) }
func (h *hostsFile) saving() string  { return h.path() + suffixSaved }
func (h *hostsFile) stating() string { return h.path() + suffixState }

// readHostsFile looks at the hosts.toml in a folder without changing anything.
func readHostsFile(folder, registry string) (*hostsFile, error) {
	h, err := readKeptFile(folder, hostsName)
	if err != nil {
		return nil, err
	}
	h.registry = registry
	return h, nil
}

// readKeptFile looks at a file that install changes and uninstall puts back.
func readKeptFile(folder, name string) (*hostsFile, error) {
	h := &hostsFile{folder: folder, name: name}
	if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
		h.noFolder = true
		return h, nil
	}
	var err error
	if h.info, h.content, err = readPlain(h.path()); err != nil {
		return nil, err
	}
	if _, h.saved, err = readPlain(h.saving()); err != nil {
		return nil, err
	}
	_, state, err := readPlain(h.stating())
	if err != nil {
		return nil, err
	}
	if state != nil {
		h.record = &hostsRecord{}
		if err := json.Unmarshal(state, h.record); err != nil {
			return nil, fmt.Errorf("%s is not what install wrote: %w", h.stating(), err)
		}
		if h.record.Version != 1 {
			return nil, fmt.Errorf("%s was written by a newer imagecache (version %d): use that one", h.stating(), h.record.Version)
		}
	}
	h.phase = h.judge()
	return h, h.checkSaved()
}

// readPlain reads a file that may be missing. A link is refused: whoever made it keeps the file elsewhere, and would not see it replaced.
func readPlain(path string) (fs.FileInfo, []byte, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is a link or no plain file: change what it stands for by hand", path)
	}
	content, err := readLimited(path, limitHosts)
	if content == nil && err == nil {
		content = []byte{}
	}
	return info, content, err
}

func (h *hostsFile) judge() hostsPhase {
	switch {
	case h.record == nil:
		return phaseNone
	case h.content != nil && slices.Contains(h.record.Wrote, checksum(h.content)):
		return phaseInstalled
	case checksum(h.content) == h.record.Original:
		return phaseHalfway
	}
	return phaseChanged
}

// checkSaved refuses to go on when the only copy of what stood there could be lost.
func (h *hostsFile) checkSaved() error {
	switch h.phase {
	case phaseNone:
		if h.saved != nil && checksum(h.saved) != checksum(h.content) {
			return fmt.Errorf("%s is here without its record (%s): if it holds what should stand in %s put it back, else remove it",
				h.saving(), filepath.Base(h.stating()), h.name)
		}
	case phaseInstalled, phaseChanged:
		if checksum(h.saved) != h.record.Original {
			return fmt.Errorf("%s is not what stood there before install: it cannot be put back by machine", h.saving())
		}
	}
	return nil
}

// original is what stood there before we came: nil for nothing.
func (h *hostsFile) original() []byte {
	if h.phase == phaseInstalled || h.phase == phaseChanged {
		return h.saved
	}
	return h.content
}

// checksum names content; what is not there is "".
func checksum(content []byte) string {
	if content == nil {
		return ""
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// encode is the record as it is written.
func (r hostsRecord) encode() ([]byte, error) {
	content, err := json.Marshal(r)
	return append(content, '\n'), err
}

func (h *hostsFile) writeRecord(r hostsRecord) error {
	content, err := r.encode()
	if err != nil {
		return err
	}
	return writeDurable(h.stating(), content, 0o644, nil)
}

package mount

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/imagecache/imagecache/mount/forms"
)

// recordName is the file that tells what a root filesystem is.
const recordName = "rootfs.json"

// rootfsRecord is what is kept of a root filesystem.
type rootfsRecord struct {
	Key       string        `json:"key"`
	Ref       string        `json:"ref"`
	Digest    digest.Digest `json:"digest"`
	Platform  string        `json:"platform"`
	Config    []byte        `json:"config"`
	Writable  bool          `json:"writable"`
	CreatedAt time.Time     `json:"created_at"`
	Layers    []rootfsLayer `json:"layers"` // base first
}

// rootfsLayer says where a layer is, and what it is should it be lost.
type rootfsLayer struct {
	Form  uint64        `json:"form"`
	Chain digest.Digest `json:"chain"`
}

func newRecord(w Wish, image Image, made []forms.Form) rootfsRecord {
	diffs := make([]digest.Digest, len(image.Layers))
	for i, l := range image.Layers {
		diffs[i] = l.DiffID
	}
	r := rootfsRecord{Key: w.Key, Ref: image.Ref, Digest: image.Digest, Platform: image.Platform, Config: image.Config,
		Writable: w.Writable, CreatedAt: now(), Layers: make([]rootfsLayer, len(made))}
	for i, chain := range identity.ChainIDs(diffs) {
		r.Layers[i] = rootfsLayer{Form: made[i].ID, Chain: chain}
	}
	return r
}

// readRecord reads the record in a folder.
func readRecord(dir string) (r rootfsRecord, err error) {
	content, err := os.ReadFile(filepath.Join(dir, recordName))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(content, &r); err != nil {
		return r, fmt.Errorf("%s: %w", filepath.Join(dir, recordName), err)
	}
	return r, nil
}

// write writes the record into a folder: the old one or the new one is there,
// whatever happens meanwhile.
func (r rootfsRecord) write(dir string) error {
	content, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, recordName)
	if err := writeSynced(path+".new", content); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func writeSynced(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

func sortOldestFirst(list []Rootfs) {
	slices.SortFunc(list, func(a, b Rootfs) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.Key, b.Key))
	})
}

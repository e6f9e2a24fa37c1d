package layerstore_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	content, err := os.ReadFile(path)
	must(t, err)
	if err := json.Unmarshal(content, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func TestRootIsAnImageLayout(t *testing.T) {
	root := filepath.Join(t.TempDir(), "new", "store")
	content := []byte("blob")
	made(t, root, content)
	var layout v1.ImageLayout
	readJSON(t, filepath.Join(root, "oci-layout"), &layout)
	if layout.Version != "1.0.0" {
		t.Errorf("layout version %q", layout.Version)
	}
	var index v1.Index
	readJSON(t, filepath.Join(root, "index.json"), &index)
	if index.SchemaVersion != 2 || index.Manifests == nil || len(index.Manifests) != 0 {
		t.Errorf("index %+v", index)
	}
	got, err := os.ReadFile(blobPath(root, describe(content).Digest))
	if err != nil || string(got) != "blob" {
		t.Errorf("blob %q, %v", got, err)
	}
	must(t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		must(t, err)
		info, err := e.Info()
		must(t, err)
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v: not the owner's alone", path, info.Mode())
		}
		return nil
	}))
}

func TestSetIndexReplacesTheIndexAndStays(t *testing.T) {
	root := t.TempDir()
	s := open(t, layerstore.Options{Root: root})
	desc := v1.Descriptor{
		MediaType: v1.MediaTypeImageManifest, Digest: describe([]byte("m")).Digest, Size: 1,
		Annotations: map[string]string{v1.AnnotationRefName: "docker.io/library/x:1"},
	}
	must(t, s.SetIndex([]v1.Descriptor{desc}))
	must(t, s.Close())
	made(t, root)
	want := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}}
	var index v1.Index
	readJSON(t, filepath.Join(root, "index.json"), &index)
	if index.SchemaVersion != want.SchemaVersion || index.MediaType != v1.MediaTypeImageIndex ||
		len(index.Manifests) != 1 || index.Manifests[0].Annotations[v1.AnnotationRefName] != "docker.io/library/x:1" {
		t.Errorf("index %+v", index)
	}
	s = open(t, layerstore.Options{Root: root})
	defer s.Close()
	must(t, s.SetIndex(nil))
	raw := map[string]json.RawMessage{}
	readJSON(t, filepath.Join(root, "index.json"), &raw)
	if string(raw["manifests"]) != "[]" {
		t.Errorf("manifests of an empty index are %s", raw["manifests"])
	}
}

func TestSecondOpenIsLockedOut(t *testing.T) {
	root := t.TempDir()
	s := open(t, layerstore.Options{Root: root})
	if _, err := layerstore.Open(layerstore.Options{Root: root}); !errors.Is(err, layerstore.ErrLocked) {
		t.Errorf("error %v, want locked", err)
	}
	must(t, s.Put(t.Context(), describe([]byte("x")), []byte("x"))) // the first is not disturbed
	must(t, s.Close())
	made(t, root)
}

func TestForeignFolderIsLeftAlone(t *testing.T) {
	root := t.TempDir()
	must(t, os.WriteFile(filepath.Join(root, "thesis.txt"), []byte("x"), 0o644))
	if _, err := layerstore.Open(layerstore.Options{Root: root}); !errors.Is(err, layerstore.ErrForeign) {
		t.Errorf("error %v, want foreign", err)
	}
	left, err := os.ReadDir(root)
	if err != nil || len(left) != 1 {
		t.Errorf("the folder holds %v, %v", left, err)
	}
}

func TestFreshFileSystemIsNotForeign(t *testing.T) {
	root := t.TempDir()
	must(t, os.Mkdir(filepath.Join(root, "lost+found"), 0o700))
	made(t, root)
}

func TestRootThatCannotBeAFolderIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for _, root := range []string{"", file, filepath.Join(file, "below")} {
		if s, err := layerstore.Open(layerstore.Options{Root: root}); err == nil {
			s.Close()
			t.Errorf("root %q: no error", root)
		}
	}
}

func TestNewerSchemaIsRefusedAndLeftAlone(t *testing.T) {
	root := t.TempDir()
	made(t, root, []byte("x"))
	setSchema(t, root, "3")
	if _, err := layerstore.Open(layerstore.Options{Root: root}); !errors.Is(err, layerstore.ErrNewer) {
		t.Errorf("error %v, want newer", err)
	}
	setSchema(t, root, "1") // and the lock was given back
	s := open(t, layerstore.Options{Root: root})
	defer s.Close()
	wantStats(t, s, 1, 1)
}

func setSchema(t *testing.T, root, version string) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(root, "layerstore.db"), 0o600, nil)
	must(t, err)
	defer db.Close()
	must(t, db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("schema"), []byte(version))
	}))
}

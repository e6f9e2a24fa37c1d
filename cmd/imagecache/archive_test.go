package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/registry"
)

func TestDigestsAreReadAsPeopleHaveThem(t *testing.T) {
	a, b := digest.FromString("a"), digest.FromString("b")
	for content, want := range map[string][]registry.Sought{
		"": nil,
		"DIGEST   SIZE\n" + a.String() + "   1\n# no more\n\n" + b.String() + " # of b":                                                                                                    {{Digest: a, Size: 1}, {Digest: b}},
		`[{"digest":"` + a.String() + `","size":1},"` + b.String() + `"]`:                                                                                                                  {{Digest: a, Size: 1}, {Digest: b}},
		`{"reference":"x","digest":"` + a.String() + `","size":99,"layers":[{"digest":"` + b.String() + `","size":1}]}` + "\n" + `{"digest":"x","annotations":{"y":"` + a.String() + `"}}`: {{Digest: a}, {Digest: b, Size: 1}},
	} {
		got, err := readDigests("list", []byte(content))
		if err != nil || len(got) != len(want) {
			t.Errorf("%q: %v, %v", content, got, err)
			continue
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%q: %v, want %v", content, got, want)
			}
		}
	}
	for _, content := range []string{"sha256:1", a.String() + " x", a.String() + " -1", a.String() + " 1 2", `[{"digest":`} {
		if got, err := readDigests("list", []byte(content)); err == nil {
			t.Errorf("%q: %v", content, got)
		}
	}
}

// TestAFileIsWrittenWholeOrNotAtAll and what stood there before stays.
func TestAFileIsWrittenWholeOrNotAtAll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.tar")
	cut := errors.New("cut")
	if err := writeWhole(path, func(w io.Writer) error { _, _ = io.WriteString(w, "half"); return cut }); !errors.Is(err, cut) {
		t.Error(err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	for _, content := range []string{"one", "two"} {
		if err := writeWhole(path, func(w io.Writer) error { _, err := io.WriteString(w, content); return err }); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != content {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// TestAnArchiveIsCheckedOnTheWay whatever the daemon sent.
func TestAnArchiveIsCheckedOnTheWay(t *testing.T) {
	d := digest.FromString("true")
	for content, right := range map[string]bool{"true": true, "lies": false} {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		_ = w.WriteHeader(&tar.Header{Name: "blobs/sha256/" + d.Encoded(), Size: 4, Mode: 0o644})
		_, _ = io.WriteString(w, content)
		_ = w.Close()
		at, err := checkArchive(bytes.NewReader(out.Bytes()))
		if right != (err == nil) || !right && at.Digest != d {
			t.Errorf("%s: %v at %v", content, err, at)
		}
		if at, err := checkArchive(strings.NewReader(out.String()[:514])); err == nil || at.Digest != d {
			t.Errorf("cut: %v at %v", err, at)
		}
	}
}

// TestAFolderIsReadAsWhatItIs: an OCI layout, or the form of skopeo's dir:, and of both nothing else that lies in them.
func TestAFolderIsReadAsWhatItIs(t *testing.T) {
	blob := digest.FromString("x").Encoded()
	for name, c := range map[string]struct{ files, want []string }{
		"layout": {[]string{"oci-layout", "index.json", "blobs/sha256/" + blob, "blobs/sha256/" + blob + ".part", "notes"}, []string{"oci-layout", "index.json", "blobs/sha256/" + blob}},
		"dir":    {[]string{"version", "manifest.json", blob, blob + ".manifest.json", "signature-1", "notes"}, []string{"version", "manifest.json", blob, blob + ".manifest.json"}},
		"other":  {[]string{"manifest.json", blob}, nil},
	} {
		folder := t.TempDir()
		for _, f := range c.files {
			path := filepath.Join(folder, f)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("Directory Transport Version: 1.1\n"), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		got, err := archiveFiles(folder)
		if !slices.Equal(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

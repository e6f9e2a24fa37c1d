package main

import (
	"os"
	"path/filepath"
	"testing"
)

// What is mounted below /run is known by folders that are gone after the machine was started anew.
func TestFoldersThatAreGoneAreFoundByTheirNames(t *testing.T) {
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(top, filepath.Join(top, "link")); err != nil {
		t.Fatal(err)
	}
	for given, want := range map[string]string{
		"":                  "",
		"link":              "",
		"missing":           "missing",
		"link/missing":      "missing",
		"link/a/b/c":        "a/b/c",
		"a/link/../b/../c/": "a/c",
	} {
		if got, err := realFolder(filepath.Join(top, given)); err != nil || got != filepath.Join(top, want) {
			t.Errorf("%s: %q, %v; want %q", given, got, err, want)
		}
	}
	file := filepath.Join(top, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := realFolder(filepath.Join(file, "below")); err == nil {
		t.Errorf("below a file: %q", got)
	}
}

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestSecretsThatEverybodyMayReadAreToldOf at the start, by file and not by content.
func TestSecretsThatEverybodyMayReadAreToldOf(t *testing.T) {
	folder := t.TempDir()
	at := func(name string) string { return filepath.Join(folder, name) }
	for _, name := range []string{"crt", "key", "users", "one", "two", "client"} {
		writeFile(t, at(name), "s3cret", 0o640)
	}
	file := fmt.Sprintf("[tls]\ncert_file = %q\nkey_file = %q\n[access]\nhtpasswd_file = %q\nrules = [\"user:ann pull **\"]\n[upstreams.\"a.example\"]\nurl = \"https://a.example\"\nusername = \"u\"\npassword_file = %q\n"+
		"[[upstreams.\"a.example\".accounts]]\nrepositories = \"team/**\"\nusername = \"u\"\npassword_file = %q\n[upstreams.\"b.example\"]\nurl = \"https://b.example\"\nclient_id = \"c\"\nclient_secret_file = %q\ntoken_url = \"https://b.example/token\"\n",
		at("crt"), at("key"), at("users"), at("one"), at("two"), at("client"))
	warned := func() (files []string) {
		t.Helper()
		_, warnings, err := load(t, file, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range warnings {
			if strings.Contains(string(w), "s3cret") || !strings.Contains(string(w), "chmod o= ") {
				t.Errorf("it warns %q", w)
			}
			files = append(files, filepath.Base(strings.Fields(string(w))[0]))
		}
		slices.Sort(files)
		return files
	}
	if files := warned(); len(files) != 0 {
		t.Errorf("it warns of %v", files)
	}
	for _, name := range []string{"crt", "key", "users", "one", "two", "client"} {
		if err := os.Chmod(at(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if files, want := warned(), []string{"client", "key", "one", "two", "users"}; !slices.Equal(files, want) {
		t.Errorf("it warns of %v, want %v", files, want)
	}
}

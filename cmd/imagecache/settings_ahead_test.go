package main

import (
	"path/filepath"
	"testing"
)

func TestReadAheadIsOnUnlessTurnedOff(t *testing.T) {
	for text, want := range map[string]string{"": "on", "read_ahead = \"on\"\n": "on", "read_ahead = \"off\"\n": "off"} {
		s, _, err := load(t, "[upstreams.\"docker.io\"]\n"+text, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if u := s.Upstreams["docker.io"]; u.NoReadAhead != (want == "off") || showReadAhead(u) != want {
			t.Errorf("%q gives %s", text, showReadAhead(u))
		}
	}
}

// TestARelativeRootStartsFromTheFileThatNamesIt, wherever the daemon is started.
func TestARelativeRootStartsFromTheFileThatNamesIt(t *testing.T) {
	s, _, err := load(t, "root = \"store\"\n", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(s.Root) || filepath.Base(s.Root) != "store" {
		t.Errorf("root is %q", s.Root)
	}
	if s, _, err = load(t, "", []string{"IMAGECACHE_ROOT=here"}, nil); err != nil || !filepath.IsAbs(s.Root) {
		t.Errorf("root from a variable is %q, %v", s.Root, err)
	}
}

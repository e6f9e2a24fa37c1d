package main

import "testing"

func TestDifferenceShowsWhatChangesAndALittleAround(t *testing.T) {
	before := "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n"
	after := "1\nnew\n2\n3\n4\n5\n6\n7\n8\n9\n10\n12\n"
	want := "--- f\n+++ f\n@@\n 1\n+new\n 2\n 3\n 4\n@@\n 8\n 9\n 10\n-11\n 12\n"
	if got := difference("f", []byte(before), []byte(after)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestDifferenceOfNewGoneAndEqualFiles(t *testing.T) {
	if got, want := difference("f", nil, []byte("a\n")), "--- /dev/null\n+++ f\n@@\n+a\n"; got != want {
		t.Errorf("new: %q, want %q", got, want)
	}
	if got, want := difference("f", []byte("a\n"), nil), "--- f\n+++ /dev/null\n@@\n-a\n"; got != want {
		t.Errorf("gone: %q, want %q", got, want)
	}
	if got := difference("f", []byte("a\n"), []byte("a\n")); got != "" {
		t.Errorf("equal: %q", got)
	}
	if got, want := difference("f", nil, []byte("a\x1b[31m\tb\n")), "--- /dev/null\n+++ f\n@@\n+a\\x1b[31m    b\n"; got != want {
		t.Errorf("what would draw on a terminal: %q, want %q", got, want)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"listen", "root", "log_format", "log_level"}
	for word, want := range map[string]string{"lisen": "listen", "listne": "listen", "log_levle": "log_level", "rot": "root", "store": "", "x": ""} {
		if got, _ := nearest(word, known); got != want {
			t.Errorf("%s is taken for %q, want %q", word, got, want)
		}
	}
}

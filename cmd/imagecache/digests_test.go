package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/registry"
)

var digestA, digestB = digest.FromString("a"), digest.SHA512.FromString("b")

func TestListsOfDigestsAreRead(t *testing.T) {
	a, b := digestA.String(), digestB.String()
	for text, want := range map[string][]registry.Sought{
		"":                        {},
		"[]":                      {},
		"# none\n\n":              {},
		a + " 1\n" + b:            {{Digest: digestA, Size: 1}, {Digest: digestB}},
		a + "\n" + a + " 1":       {{Digest: digestA}, {Digest: digestA, Size: 1}},
		a + " 1\n" + a + " 2":     {{Digest: digestA, Size: 1}, {Digest: digestA, Size: 2}},
		a + " 1\n" + a + " 1 # x": {{Digest: digestA, Size: 1}},
		`["` + a + `"]`:           {{Digest: digestA}},
		`{"digest":"` + a + `","size":1}` + "\n" + `{"digest":"` + a + `","size":-1}`: {{Digest: digestA, Size: 1}, {Digest: digestA}},
	} {
		got, err := readDigests("standard input", []byte(text))
		if err != nil || !slices.Equal(unique(got), want) {
			t.Errorf("%q: %v, %v", text, unique(got), err)
		}
	}
}

func TestListsThatAreNoneNameTheLine(t *testing.T) {
	a := digestA.String()
	for text, want := range map[string]string{
		a + "\nx\n":                       `standard input:2: "x" is not a digest`,
		"\n\n" + a + " -1":                `standard input:3: "-1" is not the size`,
		"[\n" + `{"digest":"` + a + `"},`: "standard input: it ends in the middle of its JSON",
		"[\n\n\"a\" b]":                   "standard input:3: ",
		"[]\n]":                           "standard input:2: ",
	} {
		if _, err := readDigests("standard input", []byte(text)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

package registry

import (
	"regexp"
	"testing"
)

// The patterns of distribution-spec 1.1, "Pulling Manifests".
var (
	repositoryPath = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagName        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// What is read by hand is read as the patterns say: for paths and tags exactly,
// for hosts the pattern, which is asked afterwards, takes some more.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"", "a", "library/nginx", "a__b/c-d--e.f", "a___b", "a/", "/a", "a//b", "-a", "a.", "A", "a/B", "v1.27_x-", ".x", "_x",
		"127.0.0.1:5000", "quay.io", "a.b:", "a:5x", "a..b", "a-.b", "xn--a.b:1:2", "[::1]:5000", "a\n", "a_b.c", "ä"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := isRepositoryPath(s), repositoryPath.MatchString(s); got != want {
			t.Errorf("%q as a path: %v, and its pattern says %v", s, got, want)
		}
		if got, want := isTagName(s), tagName.MatchString(s); got != want {
			t.Errorf("%q as a tag: %v, and its pattern says %v", s, got, want)
		}
		if isPlainHost(s) && !registryName.MatchString(s) {
			t.Errorf("%q as a host: its pattern refuses it", s)
		}
	})
}

package api

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/imagecache/imagecache/registry"
)

const (
	hex64   = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	sha256d = "sha256:" + hex64
	sha512d = "sha512:" + hex64 + hex64
)

func TestPathsAreUnderstood(t *testing.T) {
	for _, c := range []struct {
		path, ns   string
		kind       kind
		repository string
		what       string // tag or digest
	}{
		{"/v2", "", kindBase, "", ""},
		{"/v2/", "", kindBase, "", ""},
		{"/v2/library/nginx/manifests/latest", "docker.io", kindManifest, "docker.io/library/nginx", "latest"},
		{"/v2/nginx/manifests/1.27-alpine_x", "", kindManifest, "docker.io/library/nginx", "1.27-alpine_x"},
		{"/v2/nginx/manifests/V1", "docker.io", kindManifest, "docker.io/library/nginx", "V1"},
		{"/v2/docker.io/nginx/manifests/latest", "", kindManifest, "docker.io/library/nginx", "latest"},
		{"/v2/index.docker.io/nginx/manifests/latest", "", kindManifest, "docker.io/library/nginx", "latest"},
		{"/v2/ghcr.io/a/b/c/blobs/" + sha256d, "", kindBlob, "ghcr.io/a/b/c", sha256d},
		{"/v2/a/b/blobs/" + sha512d, "quay.io", kindBlob, "quay.io/a/b", sha512d},
		{"/v2/localhost/x/tags/list", "", kindTags, "localhost/x", ""},
		{"/v2/127.0.0.1:5000/x/tags/list", "", kindTags, "127.0.0.1:5000/x", ""},
		{"/v2/x/y/tags/list", "127.0.0.1:5000", kindTags, "127.0.0.1:5000/x/y", ""},
		{"/v2/ghcr.io/a/tags/list", "mirror.example", kindTags, "mirror.example/ghcr.io/a", ""},
		{"/v2/x.y/tags/list", "", kindTags, "docker.io/library/x.y", ""},
		{"/v2/x/y/referrers/" + sha256d, "", kindReferrers, "docker.io/x/y", sha256d},
		{"/v2/manifests/blobs/manifests/latest", "", kindManifest, "docker.io/manifests/blobs", "latest"},
		{"/v2/tags/list/manifests/list", "", kindManifest, "docker.io/tags/list", "list"},
		{"/v2/x/manifests/sha256%3A" + hex64, "", kindManifest, "docker.io/library/x", sha256d},
		{"/v2/GHCR.io/a/b/tags/list", "", kindTags, "ghcr.io/a/b", ""},
	} {
		req, err := parse(c.path, c.ns)
		if err != nil {
			t.Errorf("%s ns=%s: %v", c.path, c.ns, err)
			continue
		}
		repository := ""
		if req.kind != kindBase {
			repository = req.repository.String()
		}
		if what := req.manifest.Tag + req.manifest.Digest.String() + req.digest.String(); req.kind != c.kind || repository != c.repository || what != c.what {
			t.Errorf("%s ns=%s: %s %s %q, want %s %s %q", c.path, c.ns, req.kind, repository, what, c.kind, c.repository, c.what)
		}
	}
}

func TestPathsAreRefused(t *testing.T) {
	long := strings.Repeat("a/", 150) + "a"
	for _, c := range []struct {
		path, ns string
		code     registry.Code // "" means: nothing at this path
	}{
		{"/v2/../manifests/latest", "", registry.CodeNameInvalid},
		{"/v2/a/../b/manifests/latest", "", registry.CodeNameInvalid},
		{"/v2/a/./b/manifests/latest", "", registry.CodeNameInvalid},
		{"/v2/a//b/manifests/latest", "", registry.CodeNameInvalid},
		{"/v2//manifests/latest", "", registry.CodeNameInvalid},
		{"/v2/manifests/latest", "", registry.CodeNameInvalid},
		{"/v2/a/tags/list/", "", registry.CodeNameInvalid},
		{"/v2//", "", registry.CodeNameInvalid},
		{"/v2/../../etc/passwd", "", registry.CodeNameInvalid},
		{"/v2/a%2fb/manifests/latest", "", registry.CodeNameInvalid},
		{"/v2/a%2Fb/manifests/latest", "", registry.CodeNameInvalid},
		{"/v2/%2e%2e/manifests/latest", "", registry.CodeNameInvalid},
		{"/v2/a/manifests/%2e%2e", "", registry.CodeNameInvalid},
		{"/v2/a/manifests/1%2E2", "", registry.CodeNameInvalid},
		{"/v2/a%252fb/manifests/latest", "", registry.CodeNameInvalid},
		{"/v2/a%5cb/manifests/latest", "", registry.CodeNameInvalid},
		{"/v2/a%00/manifests/latest", "", registry.CodeNameInvalid},
		{"/v2/a%0a/manifests/latest", "", registry.CodeNameInvalid},
		{"/v2/a%zz/manifests/latest", "", registry.CodeNameInvalid},
		{"/v2/a%/manifests/latest", "", registry.CodeNameInvalid},
		{"/v2/a%20b/manifests/latest", "", registry.CodeNameInvalid},
		{"/v2/Library/Nginx/manifests/latest", "", registry.CodeNameInvalid},
		{"/v2/a_/manifests/latest", "", registry.CodeNameInvalid},
		{"/v2/a___b/manifests/latest", "", registry.CodeNameInvalid},
		{"/v2/a..b/manifests/latest", "ghcr.io", registry.CodeNameInvalid},
		{"/v2/é/manifests/latest", "", registry.CodeNameInvalid},
		{"/v2/" + long + "/manifests/latest", "", registry.CodeNameInvalid},
		{"/v2/a/manifests/latest", "../etc", registry.CodeNameInvalid},
		{"/v2/a/manifests/latest", "http://evil.example", registry.CodeNameInvalid},
		{"/v2/a/manifests/latest", "a b", registry.CodeNameInvalid},
		{"/v2/ghcr.io:x/a/manifests/latest", "", registry.CodeNameInvalid},
		{"/v2/a/blobs/sha256:" + hex64[1:], "", registry.CodeDigestInvalid},
		{"/v2/a/blobs/sha256:" + strings.ToUpper(hex64), "", registry.CodeDigestInvalid},
		{"/v2/a/blobs/SHA256:" + hex64, "", registry.CodeDigestInvalid},
		{"/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", "", registry.CodeDigestInvalid},
		{"/v2/a/blobs/sha384:" + hex64 + hex64[:32], "", registry.CodeDigestInvalid},
		{"/v2/a/blobs/latest", "", registry.CodeDigestInvalid},
		{"/v2/a/manifests/sha256:", "", registry.CodeDigestInvalid},
		{"/v2/a/manifests/:", "", registry.CodeDigestInvalid},
		{"/v2/a/referrers/latest", "", registry.CodeDigestInvalid},
		{"/v2/a/manifests/-x", "", registry.CodeTagInvalid},
		{"/v2/a/manifests/.x", "", registry.CodeTagInvalid},
		{"/v2/a/manifests/..", "", registry.CodeNameInvalid},
		{"/v2/a/manifests/", "", registry.CodeNameInvalid},
		{"/v2/a/manifests/a%20b", "", registry.CodeTagInvalid},
		{"/v2/a/manifests/a@b", "", registry.CodeTagInvalid},
		{"/v2/a/manifests/" + strings.Repeat("x", 129), "", registry.CodeTagInvalid},
		{"/v2/a/blobs/uploads/..", "", registry.CodeNameInvalid},
		{"/v2/_catalog/", "", registry.CodeNameInvalid},
		{"/v2/a/b", "", ""},
		{"/v2/a/tags/other", "", ""},
	} {
		_, err := parse(c.path, c.ns)
		var known *registry.Error
		switch {
		case c.code == "":
			if !errors.Is(err, errNoEndpoint) {
				t.Errorf("%s: %v, want that nothing is there", c.path, err)
			}
		case !errors.As(err, &known) || known.Code != c.code:
			t.Errorf("%s ns=%s: %v, want %s", c.path, c.ns, err, c.code)
		}
	}
}

func TestNamespaceIsFoundInAnyQuery(t *testing.T) {
	for query, want := range map[string]string{
		"":                       "",
		"ns=docker.io":           "docker.io",
		"n=1&ns=ghcr.io":         "ghcr.io",
		"ns=127.0.0.1%3A5000&n=": "127.0.0.1:5000",
		"ns=":                    "",
		"sns=docker.io":          "",
		"ns=a&ns=b":              "a",
		"ns=%zz":                 "%zz",
	} {
		if got := namespace(query); got != want {
			t.Errorf("%q: %q, want %q", query, got, want)
		}
	}
}

// FuzzParse holds that what is accepted is canonical: nothing that could climb
// out of a folder, nothing that would be another request when written again.
func FuzzParse(f *testing.F) {
	for _, path := range []string{
		"/v2/", "/v2/library/nginx/manifests/latest", "/v2/ghcr.io/a/b/blobs/" + sha256d, "/v2/a/tags/list",
		"/v2/a/../b/manifests/latest", "/v2/a%2fb/manifests/latest", "/v2/a//tags/list", "/v2/[::1]:5000/a/tags/list",
		"/v2/a/manifests/sha256%3a" + hex64,
	} {
		f.Add(path, "")
		f.Add(path, "docker.io")
	}
	f.Fuzz(func(t *testing.T, path, ns string) {
		req, err := parse(path, ns)
		if err != nil || req.kind == kindBase {
			return
		}
		name := req.repository.String()
		if strings.Contains(name, "..") || strings.ContainsAny(name, "\\%\x00 ") || strings.Contains(name, "//") || len(name) > 256 {
			t.Fatalf("%q in %q: accepted as %q", path, ns, name)
		}
		again := "/v2/" + req.repository.Path + "/"
		switch req.kind {
		case kindManifest:
			again += "manifests/" + req.manifest.Tag + req.manifest.Digest.String()
		case kindBlob:
			again += "blobs/" + req.digest.String()
		case kindReferrers:
			again += "referrers/" + req.digest.String()
		case kindTags:
			again += "tags/list"
		}
		second, err := parse((&url.URL{Path: again}).EscapedPath(), req.repository.Registry)
		if err != nil || second.repository != req.repository || second.manifest != req.manifest || second.digest != req.digest {
			t.Fatalf("%q in %q: %+v, but written as %q: %+v, %v", path, ns, req, again, second, err)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parse("/v2/library/nginx/blobs/"+sha256d, "docker.io"); err != nil {
			b.Fatal(err)
		}
	}
}

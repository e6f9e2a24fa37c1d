package registry

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

var (
	someDigest   = digest.FromString("x")
	sha512Digest = digest.SHA512.FromString("x")
)

func TestParseReference(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"nginx", "docker.io/library/nginx:latest"},
		{"nginx:1.27", "docker.io/library/nginx:1.27"},
		{"docker.io/nginx", "docker.io/library/nginx:latest"},
		{"index.docker.io/grafana/grafana:11", "docker.io/grafana/grafana:11"},
		{"registry-1.docker.io/nginx", "docker.io/library/nginx:latest"},
		{"127.0.0.1:5000/a/b__c", "127.0.0.1:5000/a/b__c:latest"},
		{"localhost/a", "localhost/a:latest"},
		{"Quay.IO/a/b", "quay.io/a/b:latest"},
		{"nginx@" + someDigest.String(), "docker.io/library/nginx@" + someDigest.String()},
		{"nginx:1@" + sha512Digest.String(), "docker.io/library/nginx:1@" + sha512Digest.String()},
	} {
		got, err := ParseReference(c.in)
		if err != nil || got.String() != c.want {
			t.Errorf("%s: got %s, %v; want %s", c.in, got, err, c.want)
		}
		again, err := ParseReference(c.want)
		if err != nil || again != got {
			t.Errorf("%s does not parse to itself: %s, %v", c.want, again, err)
		}
	}
}

func TestParseReferenceRefuses(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Code
	}{
		{"", CodeNameInvalid},
		{"../etc/passwd", CodeNameInvalid},
		{"a/../b", CodeNameInvalid},
		{"docker.io/library/x:y:z", CodeNameInvalid},
		{"quay.io/A/b", CodeNameInvalid},
		{"A/b", CodeNameInvalid},
		{"https://quay.io/a/b", CodeNameInvalid},
		{"quay.io/" + strings.Repeat("a", 250), CodeNameInvalid},
		{"nginx:", CodeTagInvalid},
		{"nginx:.x", CodeTagInvalid},
		{"nginx:" + strings.Repeat("x", 129), CodeTagInvalid},
		{"nginx@sha256:12", CodeDigestInvalid},
		{"nginx@" + strings.ToUpper(someDigest.String()), CodeDigestInvalid},
		{"nginx@sha384:" + strings.Repeat("a", 96), CodeDigestInvalid},
		{"nginx@md5:" + strings.Repeat("a", 32), CodeDigestInvalid},
		{"nginx@" + someDigest.String() + "@" + someDigest.String(), CodeDigestInvalid},
	} {
		got, err := ParseReference(c.in)
		var ours *Error
		if !errors.As(err, &ours) || ours.Code != c.want {
			t.Errorf("%q: got %q, %v; want %s", c.in, got, err, c.want)
		}
	}
}

func TestRepositoryReference(t *testing.T) {
	r, err := NewRepository("registry-1.docker.io", "nginx")
	if err != nil || r.String() != "docker.io/library/nginx" {
		t.Fatalf("got %s, %v", r, err)
	}
	if ref, err := r.Reference("1.27"); err != nil || ref.Tag != "1.27" || ref.Digest != "" {
		t.Errorf("tag: %v, %v", ref, err)
	}
	if ref, err := r.Reference(someDigest.String()); err != nil || ref.Tag != "" || ref.Digest != someDigest {
		t.Errorf("digest: %v, %v", ref, err)
	}
	for _, host := range []string{"", "a/b", "registry", "http://x", "x:y", "user@host", "-x", "a b"} {
		if r, err := NewRepository(host, "a"); err == nil {
			t.Errorf("registry %q is taken: %v", host, r)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"nginx", "a.b:5000/c/d:e", "x@" + someDigest.String(), "[::1]:5000/a", "a//b", "A/b", "localhost/x:y@sha512:z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseReference(s)
		if err != nil {
			var ours *Error
			if !errors.As(err, &ours) || ours.Code == "" {
				t.Fatalf("%q: untyped error %v", s, err)
			}
			return
		}
		if strings.Contains(ref.Path, "..") || (ref.Tag == "" && ref.Digest == "") || len(ref.Repository.String()) > maxName {
			t.Fatalf("%q became %+v", s, ref)
		}
		again, err := ParseReference(ref.String())
		if err != nil || again != ref {
			t.Fatalf("%q became %s, and that %s, %v", s, ref, again, err)
		}
	})
}

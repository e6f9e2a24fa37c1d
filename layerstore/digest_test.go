package layerstore_test

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/imagecache/imagecache/layerstore"
)

func FuzzIsSHA256(f *testing.F) {
	hex := digest.FromString("x").Encoded()
	for _, s := range []string{"", "sha256:", "sha256:" + hex, "sha256:" + strings.ToUpper(hex), "sha256:" + hex[1:], "sha256:" + hex + "0", "sha512:" + hex + hex, "sha256:" + hex[:63] + "g", "sha256:../" + hex[3:]} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d := digest.Digest(s)
		if got, want := layerstore.IsSHA256(d), d.Validate() == nil && d.Algorithm() == digest.SHA256; got != want {
			t.Errorf("%q: %v, and its pattern says %v", s, got, want)
		}
	})
}

package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/imagecache/imagecache/registry"
)

// TestAnIndexHasNoTableOfBlobs: it has no blobs, and of an image that is not here none are known.
func TestAnIndexHasNoTableOfBlobs(t *testing.T) {
	content, err := json.Marshal(registry.Inspection{Manifests: []registry.InspectedManifest{
		{Digest: "sha256:1", MediaType: "application/vnd.oci.image.index.v1+json", Here: true},
		{Digest: "sha256:2", MediaType: "application/vnd.oci.image.manifest.v1+json", Platform: "linux/s390x"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := (&cli{out: &out}).printInspection(content); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); strings.Contains(text, "BLOB") || !strings.Contains(text, "an index") || !strings.Contains(text, "not here") {
		t.Errorf("it is shown as\n%s", text)
	}
}

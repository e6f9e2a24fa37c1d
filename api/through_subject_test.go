package api

import (
	"encoding/json"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	upstreams "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/registry"
)

// TestPushThroughKeepsToUpstreamsListOfReferrers: a client writes the fallback
// tag where the answer has no OCI-Subject, so that only an upstream that lists
// what was pushed may have it said.
func TestPushThroughKeepsToUpstreamsListOfReferrers(t *testing.T) {
	subject := specs.Descriptor{MediaType: specs.MediaTypeImageManifest, Digest: digest.FromString("what is signed"), Size: 14}
	for _, c := range []struct {
		name, says string // says is upstream's OCI-Subject
		lists      bool   // it has the referrers API
		want       string
	}{
		{"it has the API", subject.Digest.String(), true, subject.Digest.String()},
		{"it has none", "", false, ""},
		{"it speaks of another manifest", digest.FromString("another").String(), false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := throughTo(t, c.says, c.lists)
			manifest := specs.Manifest{MediaType: specs.MediaTypeImageManifest, ArtifactType: "application/signature",
				Config: specs.DescriptorEmptyJSON, Layers: []specs.Descriptor{specs.DescriptorEmptyJSON}, Subject: &subject}
			manifest.SchemaVersion = 2
			content := encode(t, manifest)
			signature := specs.Descriptor{MediaType: manifest.MediaType, Digest: digest.FromString(content), Size: int64(len(content)), ArtifactType: manifest.ArtifactType}
			if got := h.pushThrough(signature.Digest.String(), manifest.MediaType, content); got != c.want {
				t.Errorf("OCI-Subject: %q, want %q", got, c.want)
			}
			if c.want == "" {
				index := specs.Index{MediaType: specs.MediaTypeImageIndex, Manifests: []specs.Descriptor{signature}}
				index.SchemaVersion = 2
				h.pushThrough(strings.Replace(subject.Digest.String(), ":", "-", 1), index.MediaType, encode(t, index))
			}
			_, body := h.want(200, "GET", "up.example/team/app/referrers/"+subject.Digest.String(), "", hers...)
			var list specs.Index
			if err := json.Unmarshal([]byte(body), &list); err != nil || len(list.Manifests) != 1 || list.Manifests[0].Digest != signature.Digest {
				t.Errorf("%s, %v", body, err)
			}
		})
	}
}

// hers is a login that upstream takes, or does not look at.
var hers = []string{"Authorization", "Basic YW5uOmhlcnM="}

// throughTo is a mirror that sends pushes on to an upstream, which answers them
// with an OCI-Subject, if it is not "".
func throughTo(t *testing.T, subject string, lists bool) *home {
	inner := upstreams.New(upstreams.Logger(log.New(t.Output(), "", 0)), upstreams.WithReferrersSupport(lists))
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && subject != "" {
			w.Header().Set("OCI-Subject", subject)
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(upstream.Close)
	h := &home{t: t, folder: t.TempDir(), upstreams: []registry.UpstreamOptions{{Name: "up.example", URL: upstream.URL, Access: registry.AccessProven, Push: registry.PushThrough}}}
	h.start()
	t.Cleanup(h.stop)
	return h
}

// pushThrough pushes a manifest, and gives the OCI-Subject of the answer.
func (h *home) pushThrough(reference, mediaType, content string) string {
	h.t.Helper()
	res, _ := h.want(201, "PUT", "up.example/team/app/manifests/"+reference, content, append([]string{"Content-Type", mediaType}, hers...)...)
	return res.Header.Get("OCI-Subject")
}

package api

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/api/access"
)

// The tests of this file go through OCI distribution-spec 1.1 by its sections;
// docs/distribution-spec.md says which of its sentences each of them holds.

// TestSpecPull is "Pulling manifests", "Pulling blobs" and "Checking if content exists".
func TestSpecPull(t *testing.T) {
	h := newHome(t)
	d, content := h.pushImage("local/app", "v1", "a layer", nil)
	layer := digest.FromString("a layer")
	for path, want := range map[string]struct {
		d       digest.Digest
		content string
	}{
		"local/app/manifests/v1":             {d, content},
		"local/app/manifests/" + d.String():  {d, content},
		"local/app/blobs/" + layer.String():  {layer, "a layer"},
		"team/../local/app/manifests/v1":     {},
		"local/app/manifests/absent":         {},
		"local/nothing/manifests/v1":         {},
		"local/nothing/blobs/" + d.String():  {},
		"local/app/blobs/" + absent.String(): {},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			res, got := h.do(method, path, "")
			if want.d == "" {
				if res.StatusCode != 404 && res.StatusCode != 400 || strings.Contains(path, "..") == (res.StatusCode == 404) {
					t.Errorf("%s %s: %d", method, path, res.StatusCode)
				}
				continue
			}
			wantHeader(t, res, "Docker-Content-Digest", want.d.String())
			if res.StatusCode != 200 || res.ContentLength != int64(len(want.content)) || method == "GET" && got != want.content || method == "HEAD" && got != "" {
				t.Errorf("%s %s: %d, %d bytes: %q", method, path, res.StatusCode, res.ContentLength, got)
			}
		}
	}
	res, _ := h.want(200, "GET", "", "")
	wantHeader(t, res, "Docker-Distribution-Api-Version", "registry/2.0")
}

var absent = digest.FromString("absent")

func TestSpecMediaTypeOfWhatWasPushed(t *testing.T) {
	h := newHome(t)
	_, content := h.pushImage("local/app", "v1", "a layer", nil)
	h.want(201, "PUT", "local/app/manifests/v2", content, "Content-Type", specs.MediaTypeImageManifest+"; charset=utf-8")
	res, _ := h.want(200, "GET", "local/app/manifests/v2", "", "Accept", "text/html")
	wantHeader(t, res, "Content-Type", specs.MediaTypeImageManifest)
	// What it says of itself and what it is called must be the same.
	res, body := h.do("PUT", "local/app/manifests/v3", content, "Content-Type", specs.MediaTypeImageIndex)
	wantError(t, res, body, 400, "MANIFEST_INVALID")
}

// TestSpecRanges is RFC 9110, section 14, which "Pulling blobs" asks for.
func TestSpecRanges(t *testing.T) {
	h := newHome(t)
	content := string(noise(2048))
	path := "local/app/blobs/" + h.pushBlob("local/app", content).Digest.String()
	for spec, want := range map[string]struct {
		status int
		field  string
		part   string
	}{
		"bytes=500-1499":   {206, "bytes 500-1499/2048", content[500:1500]},
		"bytes=500-":       {206, "bytes 500-2047/2048", content[500:]},
		"bytes=-500":       {206, "bytes 1548-2047/2048", content[1548:]},
		"bytes=2000-5000":  {206, "bytes 2000-2047/2048", content[2000:]},
		"bytes=500-0":      {416, "bytes */2048", ""},
		"bytes=5000-10000": {416, "bytes */2048", ""},
	} {
		res, got := h.do("GET", path, "", "Range", spec)
		if res.StatusCode != want.status || want.part != "" && got != want.part || want.part != "" && res.ContentLength != int64(len(want.part)) {
			t.Errorf("%s: %d, %d bytes", spec, res.StatusCode, len(got))
		}
		wantHeader(t, res, "Content-Range", want.field)
	}
}

// TestSpecUploads is what "Pushing Blobs" demands beyond [TestUploads].
func TestSpecUploads(t *testing.T) {
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		t.Run(algorithm.String(), func(t *testing.T) {
			h := newHome(t)
			begin := func() string {
				res, _ := h.want(202, "POST", "local/app/blobs/uploads/", "")
				return res.Header.Get("Location")
			}
			pullable := func(res *http.Response, content string) {
				t.Helper()
				if _, got := h.want(200, "GET", res.Header.Get("Location"), ""); got != content {
					t.Errorf("%d bytes", len(got))
				}
			}
			t.Run("one POST", func(t *testing.T) {
				content := string(noise(512))
				res, _ := h.want(201, "POST", "local/app/blobs/uploads/?digest="+algorithm.FromString(content).String(), content)
				pullable(res, content)
			})
			t.Run("POST and PUT of nothing and of an empty document", func(t *testing.T) {
				for _, content := range []string{"", "{}"} {
					d := algorithm.FromString(content)
					res, _ := h.want(201, "PUT", begin()+"?digest="+d.String(), content)
					pullable(res, content)
					res, _ = h.want(200, "HEAD", "local/app/blobs/"+d.String(), "")
					if res.ContentLength != int64(len(content)) {
						t.Errorf("%q has %d bytes", content, res.ContentLength)
					}
				}
			})
			for _, last := range []string{"PATCH", "PUT"} {
				t.Run("pieces out of order, the last by "+last, func(t *testing.T) { h.piecesOutOfOrder(begin(), algorithm, last) })
			}
			t.Run("a stream", func(t *testing.T) {
				content, at := string(noise(512)), begin()
				res, _ := h.want(202, "PATCH", at, content)
				wantHeader(t, res, "Range", "0-511")
				res, _ = h.want(201, "PUT", res.Header.Get("Location")+"?digest="+algorithm.FromString(content).String(), "")
				pullable(res, content)
			})
			t.Run("bytes of another digest", func(t *testing.T) {
				wrong := algorithm.FromString("what was promised").String()
				res, body := h.do("POST", "local/app/blobs/uploads/?digest="+wrong, "other")
				wantError(t, res, body, 400, "DIGEST_INVALID")
				res, body = h.do("PUT", begin()+"?digest="+wrong, "other")
				wantError(t, res, body, 400, "DIGEST_INVALID")
				at := begin()
				h.want(202, "PATCH", at, "other", "Content-Range", "0-4")
				res, body = h.do("PUT", at+"?digest="+wrong, "")
				wantError(t, res, body, 400, "DIGEST_INVALID")
				h.want(404, "HEAD", "local/app/blobs/"+wrong, "")
			})
		})
	}
}

// piecesOutOfOrder sends three pieces, and before each one that does not follow.
func (h *home) piecesOutOfOrder(at string, algorithm digest.Algorithm, lastBy string) {
	h.t.Helper()
	content := string(noise(3000))
	d := algorithm.FromString(content).String()
	for i, span := range []string{"0-999", "1000-1999", "2000-2999"} {
		bad := "2500-2999"
		res, body := h.do("PATCH", at, content[2500:], "Content-Range", bad)
		wantError(h.t, res, body, 416, "BLOB_UPLOAD_INVALID")
		res, _ = h.want(204, "GET", at, "")
		if i > 0 {
			wantHeader(h.t, res, "Range", "0-"+[]string{"", "999", "1999"}[i])
		}
		at = res.Header.Get("Location")
		piece := content[i*1000 : (i+1)*1000]
		if i == 2 && lastBy == "PUT" {
			h.want(201, "PUT", at+"?digest="+d, piece, "Content-Range", span)
			break
		}
		res, _ = h.want(202, "PATCH", at, piece, "Content-Range", span)
		wantHeader(h.t, res, "Range", "0-"+strings.SplitAfter(span, "-")[1])
		at = res.Header.Get("Location")
	}
	if lastBy == "PATCH" {
		h.want(201, "PUT", at+"?digest="+d, "")
	}
	if _, got := h.want(200, "GET", "local/app/blobs/"+d, ""); got != content {
		h.t.Errorf("%d bytes", len(got))
	}
}

func TestSpecUploadsThatAreNot(t *testing.T) {
	h := newHome(t)
	for _, c := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", "local/app/blobs/uploads/nothing", 404, "BLOB_UPLOAD_UNKNOWN"},
		{"PATCH", "local/app/blobs/uploads/nothing", 404, "BLOB_UPLOAD_UNKNOWN"},
		{"PUT", "local/app/blobs/uploads/nothing?digest=" + absent.String(), 404, "BLOB_UPLOAD_UNKNOWN"},
		{"DELETE", "local/app/blobs/uploads/nothing", 404, "BLOB_UPLOAD_UNKNOWN"},
		{"POST", "local/app/blobs/uploads/?digest=sha256:short", 400, "DIGEST_INVALID"},
		{"POST", "local/app/blobs/uploads/?mount=sha256:short&from=local/b", 400, "DIGEST_INVALID"},
		{"POST", "local/UPPER/blobs/uploads/", 400, "NAME_INVALID"},
	} {
		res, body := h.do(c.method, c.path, "")
		wantError(t, res, body, c.status, c.code)
	}
	res, _ := h.want(202, "POST", "local/app/blobs/uploads/", "")
	at := res.Header.Get("Location")
	for _, odd := range []string{"abc", "5", "-5", "3-1", "0-99999999999999999999", "0-1,3-4"} {
		res, body := h.do("PATCH", at, "x", "Content-Range", odd)
		wantError(t, res, body, 416, "BLOB_UPLOAD_INVALID")
	}
}

// TestSpecMountFromAnywhere: without from, a blob that some repository has which
// the caller may pull from is mounted, and one that none has is uploaded.
func TestSpecMountFromAnywhere(t *testing.T) {
	h := newHome(t)
	d := h.pushBlob("local/z", "a layer").Digest.String()
	res, _ := h.want(201, "POST", "local/app/blobs/uploads/?mount="+d, "")
	wantHeader(t, res, "Location", "/v2/local/app/blobs/"+d, "Docker-Content-Digest", d)
	h.want(200, "GET", "local/app/blobs/"+d, "")
	res, _ = h.want(202, "POST", "local/app/blobs/uploads/?mount="+absent.String(), "")
	h.want(201, "PUT", res.Header.Get("Location")+"?digest="+absent.String(), "absent")
}

// TestSpecManifests pushes one of each kind that clients push, and reads it back
// to the byte.
func TestSpecManifests(t *testing.T) {
	h := newHome(t)
	const in = "local/app"
	empty := h.pushBlob(in, "{}")
	empty.MediaType = specs.MediaTypeEmptyJSON
	layer := h.pushBlob(in, "a layer")
	_, image := h.pushImage(in, "v1", "a layer", nil)
	child := specs.Descriptor{MediaType: specs.MediaTypeImageManifest, Digest: digest.FromString(image), Size: int64(len(image))}
	withData := layer
	withData.Data = []byte("a layer")
	foreign := specs.Descriptor{MediaType: "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", Digest: absent, Size: 5, URLs: []string{"https://store.example.com/x"}}
	missing := specs.Descriptor{MediaType: specs.MediaTypeImageManifest, Digest: absent, Size: 123}
	encoded := func(v any) string { return encode(t, v) }
	manifest := func(m specs.Manifest) string {
		m.SchemaVersion, m.MediaType = 2, specs.MediaTypeImageManifest
		return encoded(m)
	}
	index := func(i specs.Index) string {
		i.SchemaVersion, i.MediaType = 2, specs.MediaTypeImageIndex
		return encoded(i)
	}
	nested := index(specs.Index{Manifests: []specs.Descriptor{child}})
	h.want(201, "PUT", in+"/manifests/"+digest.FromString(nested).String(), nested, "Content-Type", specs.MediaTypeImageIndex)
	large := map[string]string{}
	for i := range 390 {
		large["a"+strings.Repeat("x", i)] = strings.Repeat("A", 10_000)
	}
	for name, c := range map[string]struct{ content, mediaType string }{
		"no layers":              {manifest(specs.Manifest{Config: empty, Layers: []specs.Descriptor{}}), specs.MediaTypeImageManifest},
		"layers null":            {manifest(specs.Manifest{Config: empty}), specs.MediaTypeImageManifest},
		"artifact":               {manifest(specs.Manifest{Config: empty, ArtifactType: "application/x", Layers: []specs.Descriptor{layer}}), specs.MediaTypeImageManifest},
		"artifact of no layers":  {manifest(specs.Manifest{Config: empty, ArtifactType: "application/x", Layers: []specs.Descriptor{empty}}), specs.MediaTypeImageManifest},
		"data in a descriptor":   {manifest(specs.Manifest{Config: empty, Layers: []specs.Descriptor{withData}}), specs.MediaTypeImageManifest},
		"not distributed":        {manifest(specs.Manifest{Config: empty, Layers: []specs.Descriptor{foreign, layer}}), specs.MediaTypeImageManifest},
		"subject that is absent": {manifest(specs.Manifest{Config: empty, Subject: &missing, Layers: []specs.Descriptor{layer}}), specs.MediaTypeImageManifest},
		"four million bytes":     {manifest(specs.Manifest{Config: empty, Annotations: large, Layers: []specs.Descriptor{}}), specs.MediaTypeImageManifest},
		"fields of their own":    {strings.Replace(manifest(specs.Manifest{Config: empty, Layers: []specs.Descriptor{}}), "{", `{ "org.example":{"a":[1,null]},`, 1), specs.MediaTypeImageManifest},
		"no media type inside":   {strings.Replace(nested, `"mediaType":"application/vnd.oci.image.index.v1+json",`, "", 1), specs.MediaTypeImageIndex},
		"index of indexes":       {index(specs.Index{Manifests: []specs.Descriptor{{MediaType: specs.MediaTypeImageIndex, Digest: digest.FromString(nested), Size: int64(len(nested))}}}), specs.MediaTypeImageIndex},
		"index of nothing":       {index(specs.Index{Manifests: []specs.Descriptor{}}), specs.MediaTypeImageIndex},
		"index with null":        {index(specs.Index{}), specs.MediaTypeImageIndex},
		"index with subject":     {index(specs.Index{Subject: &missing, ArtifactType: "application/x", Manifests: []specs.Descriptor{child}}), specs.MediaTypeImageIndex},
		"docker's":               {strings.NewReplacer(specs.MediaTypeImageManifest, "application/vnd.docker.distribution.manifest.v2+json").Replace(image), "application/vnd.docker.distribution.manifest.v2+json"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, reference := range []string{"tag", digest.FromString(c.content).String(), digest.SHA512.FromString(c.content).String()} {
				res, _ := h.want(201, "PUT", in+"/manifests/"+reference, c.content, "Content-Type", c.mediaType)
				if subject := strings.Contains(c.content, `"subject"`); subject != (res.Header.Get("OCI-Subject") != "") {
					t.Errorf("OCI-Subject: %q", res.Header.Get("OCI-Subject"))
				}
				if strings.Contains(reference, ":") {
					wantHeader(t, res, "Docker-Content-Digest", reference)
				}
				for _, at := range []string{res.Header.Get("Location"), in + "/manifests/" + reference} {
					res, got := h.want(200, "GET", at, "")
					if got != c.content {
						t.Errorf("%s: %d bytes of %d", at, len(got), len(c.content))
					}
					wantHeader(t, res, "Content-Type", c.mediaType)
					h.want(200, "HEAD", at, "")
				}
			}
			h.want(202, "DELETE", in+"/manifests/"+digest.FromString(c.content).String(), "")
			h.want(404, "GET", in+"/manifests/tag", "")
		})
	}
}

func TestSpecTagParameters(t *testing.T) {
	h := newHome(t)
	_, content := h.pushImage("local/app", "v1", "a layer", nil)
	d := digest.SHA512.FromString(content).String()
	res, _ := h.want(201, "PUT", "local/app/manifests/"+d+"?tag=a&tag=b", content, "Content-Type", specs.MediaTypeImageManifest)
	if got := res.Header.Values("OCI-Tag"); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("OCI-Tag: %q", got)
	}
	for _, tag := range []string{"a", "b"} {
		res, _ := h.want(200, "HEAD", "local/app/manifests/"+tag, "")
		wantHeader(t, res, "Docker-Content-Digest", d)
	}
	for query, status := range map[string]int{"?tag=.odd": 400, "?tag=" + d: 400, "?tag=": 400, "?" + strings.Repeat("tag=x&", maxTags+1): 414} {
		if res, body := h.do("PUT", "local/app/manifests/"+d+query, content); res.StatusCode != status {
			t.Errorf("%.20s: %d %s", query, res.StatusCode, body)
		}
	}
}

// TestSpecReferrers is "Listing Referrers" beyond [TestReferrersOfPushed].
func TestSpecReferrers(t *testing.T) {
	h := newHome(t)
	d, content := h.pushImage("local/app", "v1", "a layer", nil)
	subject := specs.Descriptor{MediaType: specs.MediaTypeImageManifest, Digest: d, Size: int64(len(content))}
	list := func(of digest.Digest, query string) (specs.Index, *http.Response) {
		t.Helper()
		res, body := h.want(200, "GET", "local/app/referrers/"+of.String()+query, "")
		wantHeader(t, res, "Content-Type", specs.MediaTypeImageIndex)
		var index specs.Index
		if err := json.Unmarshal([]byte(body), &index); err != nil || !strings.Contains(body, `"manifests":[`) || index.SchemaVersion != 2 {
			t.Errorf("%s: %v", body, err)
		}
		return index, res
	}
	t.Run("of nothing", func(t *testing.T) {
		list(absent, "")
		h.want(200, "GET", "local/nothing/referrers/"+absent.String(), "")
		res, body := h.do("GET", "local/app/referrers/sha256:short", "")
		wantError(t, res, body, 400, "DIGEST_INVALID")
		res, body = h.do("GET", "local/app/referrers/v1", "")
		wantError(t, res, body, 400, "DIGEST_INVALID")
	})
	t.Run("an index without a type", func(t *testing.T) {
		index := specs.Index{MediaType: specs.MediaTypeImageIndex, Subject: &subject, Manifests: []specs.Descriptor{subject}, Annotations: map[string]string{"k": "v"}}
		index.SchemaVersion = 2
		res, _ := h.want(201, "PUT", "local/app/manifests/list", encode(t, index), "Content-Type", specs.MediaTypeImageIndex)
		wantHeader(t, res, "OCI-Subject", d.String())
		got, _ := list(d, "")
		if len(got.Manifests) != 1 || got.Manifests[0].ArtifactType != "" || got.Manifests[0].Annotations["k"] != "v" || got.Manifests[0].MediaType != specs.MediaTypeImageIndex {
			t.Errorf("%+v", got.Manifests)
		}
		if got, res := list(d, "?artifactType=application/none"); len(got.Manifests) != 0 {
			t.Errorf("%+v", got.Manifests)
		} else {
			wantHeader(t, res, "OCI-Filters-Applied", "artifactType")
		}
	})
	t.Run("by the fallback tag, without what is gone", func(t *testing.T) {
		of := digest.SHA512.FromString("by tag")
		kept, keptContent := h.pushImage("local/app", "", "a signature", nil)
		index := specs.Index{MediaType: specs.MediaTypeImageIndex, Manifests: []specs.Descriptor{
			{MediaType: specs.MediaTypeImageManifest, Digest: kept, Size: int64(len(keptContent))},
			{MediaType: specs.MediaTypeImageManifest, Digest: absent, Size: 1},
		}}
		index.SchemaVersion = 2
		h.want(201, "PUT", "local/app/manifests/sha512-"+of.Encoded()[:64], encode(t, index), "Content-Type", specs.MediaTypeImageIndex)
		if got, _ := list(of, ""); len(got.Manifests) != 1 || got.Manifests[0].Digest != kept {
			t.Errorf("%+v", got.Manifests)
		}
	})
	t.Run("a subject that is no digest", func(t *testing.T) {
		odd := strings.Replace(content, "{", `{"subject":{"mediaType":"a/b","digest":"x\r\ny","size":1},`, 1)
		res, body := h.do("PUT", "local/app/manifests/odd", odd, "Content-Type", specs.MediaTypeImageManifest)
		wantError(t, res, body, 400, "MANIFEST_INVALID")
	})
}

// TestSpecTagLists is "Listing Tags".
func TestSpecTagLists(t *testing.T) {
	h := newHome(t)
	_, content := h.pushImage("local/app", "b", "a layer", nil)
	for _, tag := range []string{"a", "Z", "c", "10", "9", "_x"} {
		h.want(201, "PUT", "local/app/manifests/"+tag, content, "Content-Type", specs.MediaTypeImageManifest)
	}
	sorted := []string{"10", "9", "Z", "_x", "a", "b", "c"}
	list := func(query string) ([]string, *http.Response) {
		t.Helper()
		res, body := h.want(200, "GET", "local/app/tags/list"+query, "")
		var page struct {
			Name string
			Tags []string
		}
		if err := json.Unmarshal([]byte(body), &page); err != nil || page.Name != "local/app" || page.Tags == nil {
			t.Errorf("%s: %s", query, body)
		}
		return page.Tags, res
	}
	for query, want := range map[string][]string{
		"":             sorted,
		"?n=100":       sorted,
		"?n=7":         sorted,
		"?n=0":         {},
		"?n=2":         sorted[:2],
		"?n=2&last=9":  sorted[2:4],
		"?last=_x":     sorted[4:],
		"?last=aa":     sorted[5:],
		"?last=zzz":    {},
		"?n=3&last=zz": {},
		"?last=c":      {},
	} {
		got, res := list(query)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
		if more := strings.HasPrefix(query, "?n=2"); more != (res.Header.Get("Link") != "") {
			t.Errorf("%s: Link %q", query, res.Header.Get("Link"))
		}
	}
	t.Run("by Link to the end", func(t *testing.T) {
		var all []string
		for next := "?n=3"; next != ""; {
			page, res := list(next)
			all = append(all, page...)
			_, next, _ = strings.Cut(strings.TrimSuffix(res.Header.Get("Link"), `>; rel="next"`), "tags/list")
		}
		if !slices.Equal(all, sorted) {
			t.Errorf("%q", all)
		}
	})
	t.Run("after deletions", func(t *testing.T) {
		h.want(202, "DELETE", "local/app/manifests/a", "")
		if got, _ := list(""); slices.Contains(got, "a") || len(got) != 6 {
			t.Errorf("%q", got)
		}
		h.want(202, "DELETE", "local/app/manifests/"+digest.FromString(content).String(), "")
		if got, _ := list(""); len(got) != 0 {
			t.Errorf("%q", got)
		}
	})
}

// TestSpecDeletion is "Content Management".
func TestSpecDeletion(t *testing.T) {
	h := newHome(t)
	d, content := h.pushImage("local/app", "v1", "a layer", nil)
	layer := digest.FromString("a layer").String()
	for _, path := range []string{"local/app/manifests/absent", "local/app/manifests/" + absent.String(), "local/nothing/manifests/" + d.String()} {
		res, body := h.do("DELETE", path, "")
		wantError(t, res, body, 404, "MANIFEST_UNKNOWN")
	}
	for _, path := range []string{"local/app/blobs/" + absent.String(), "local/nothing/blobs/" + layer} {
		res, body := h.do("DELETE", path, "")
		wantError(t, res, body, 404, "BLOB_UNKNOWN")
	}
	t.Run("a manifest that is a blob too", func(t *testing.T) {
		h.pushBlob("local/app", content)
		h.want(200, "GET", "local/app/manifests/v1", "")
		h.want(404, "DELETE", "local/app/blobs/"+d.String(), "")
		h.want(200, "GET", "local/app/manifests/v1", "")
	})
	h.want(202, "DELETE", "local/app/blobs/"+layer, "")
	h.want(404, "GET", "local/app/blobs/"+layer, "")
	h.want(202, "DELETE", "local/app/manifests/"+d.String(), "")
	h.want(404, "HEAD", "local/app/manifests/"+d.String(), "")
	// All may come again.
	h.pushImage("local/app", "v1", "a layer", nil)
	h.want(200, "GET", "local/app/blobs/"+layer, "")
	h.want(200, "GET", "local/app/manifests/v1", "")
}

// TestSpecErrorCodes: a 4xx has one of the specification's codes, whatever went wrong.
func TestSpecErrorCodes(t *testing.T) {
	h := newHome(t)
	_, content := h.pushImage("local/app", "v1", "a layer", nil)
	known := strings.Fields("BLOB_UNKNOWN BLOB_UPLOAD_INVALID BLOB_UPLOAD_UNKNOWN DIGEST_INVALID MANIFEST_BLOB_UNKNOWN MANIFEST_INVALID" +
		" MANIFEST_UNKNOWN NAME_INVALID NAME_UNKNOWN SIZE_INVALID UNAUTHORIZED DENIED UNSUPPORTED TOOMANYREQUESTS TAG_INVALID")
	layer := digest.FromString("a layer").String()
	res, _ := h.want(202, "POST", "local/app/blobs/uploads/", "")
	upload := res.Header.Get("Location")
	for _, c := range [][]string{
		{"GET", "local/app/manifests/absent"}, {"GET", "local/app/manifests/sha256:short"}, {"GET", "local/app/blobs/short"},
		{"GET", "local/app/blobs/" + layer, "Range", "bytes=99-"}, {"GET", "local/app/tags/list?n=x"}, {"GET", "local/app/tags/list?n=-1"},
		{"GET", "local/nothing/tags/list"}, {"GET", "local/UPPER/manifests/v1"}, {"GET", "local/a%2fb/manifests/v1"}, {"GET", "nothing"},
		{"PUT", "local/app/manifests/v1", "Content-Type", specs.MediaTypeImageIndex}, {"PUT", "local/app/manifests/" + absent.String()}, {"PUT", "local/app/manifests/.x"},
		{"PUT", "local/app/blobs/" + layer}, {"POST", "local/app/manifests/v1"}, {"PATCH", upload, "Content-Range", "7-9"},
		{"PUT", upload}, {"DELETE", "local/app/tags/list"}, {"POST", "library/app/blobs/uploads/"}, {"GET", "local/app/blobs/uploads/"},
		{"PATCH", upload, "Content-Range", "0-99"}, {"PUT", "local/app/manifests/v1?tag=.x"},
	} {
		res, body := h.do(c[0], c[1], content, c[2:]...)
		var e errorBody
		if err := json.Unmarshal([]byte(body), &e); err != nil || len(e.Errors) == 0 || !slices.Contains(known, e.Errors[0].Code) || res.StatusCode/100 != 4 {
			t.Errorf("%q: %d %s", c, res.StatusCode, body)
		}
	}
}

// TestEachRequirementHasItsTest: docs/distribution-spec.md names no test that is not there.
func TestEachRequirementHasItsTest(t *testing.T) {
	table, err := os.ReadFile("../docs/distribution-spec.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(table)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| Section") {
			continue
		}
		rows++
		named := regexp.MustCompile("`([a-z0-9]+)\\.((?:Test|Fuzz)\\w+)(?:/([^`]+))?`").FindAllStringSubmatch(line, -1)
		if len(named) == 0 {
			t.Errorf("no test: %s", line)
		}
		for _, name := range named {
			if !hasTest(t, name[1], name[2], name[3]) {
				t.Errorf("there is no test %s", name[0])
			}
		}
	}
	if rows < 50 {
		t.Errorf("%d rows", rows)
	}
}

// hasTest looks for a test, and for the name of one of its parts, in the source of a package.
func hasTest(t *testing.T, room, test, part string) bool {
	t.Helper()
	files, err := filepath.Glob("../" + room + "/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, body, found := strings.Cut(string(source), "\nfunc "+test+"("); found {
			body, _, _ = strings.Cut(body, "\n}\n")
			return part == "" || strings.Contains(body, `"`+part+`"`)
		}
	}
	return false
}

// TestSpecMountFromAnywhereKeepsRights: a digest mounts nothing out of a
// repository that the caller may not pull from, and does not tell that it is there.
func TestSpecMountFromAnywhereKeepsRights(t *testing.T) {
	g := newGuarded(t, access.Rules{
		{Who: []string{"user:ann"}, May: []access.Verb{access.Pull, access.Push}, Repositories: []string{"local/ann/**"}},
		{Who: []string{"user:bob"}, May: []access.Verb{access.Pull, access.Push}, Repositories: []string{"local/bob/**"}},
	})
	d := digest.FromString("hers").String()
	g.want(201, "POST", "local/ann/app/blobs/uploads/?digest="+d, "hers", as("ann")...)
	for _, from := range []string{"", "&from=local/ann/app"} {
		g.want(202, "POST", "local/bob/app/blobs/uploads/?mount="+d+from, "", as("bob")...)
	}
	g.want(404, "HEAD", "local/bob/app/blobs/"+d, "", as("bob")...)
	g.want(201, "POST", "local/ann/other/blobs/uploads/?mount="+d, "", as("ann")...)
}

package api

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// edited is an image's manifest in which one piece of text stands for another.
// Without layers or config it names what newHome's repository has.
func edited(t *testing.T, content, old, to string) string {
	t.Helper()
	if !strings.Contains(content, old) {
		t.Fatalf("%s has no %s", content, old)
	}
	return strings.Replace(content, old, to, 1)
}

// TestSpecManifestsThatNobodyCouldUse are refused in words of what the client sent.
func TestSpecManifestsThatNobodyCouldUse(t *testing.T) {
	h := newHome(t)
	d, image := h.pushImage("local/app", "v1", "a layer", nil)
	layer := digest.FromString("a layer")
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, specs.MediaTypeImageIndex, specs.MediaTypeImageManifest, d, len(image))
	subject := func(mediaType string, size int) string {
		return edited(t, image, "{", fmt.Sprintf(`{"subject":{"mediaType":%q,"digest":%q,"size":%d},`, mediaType, d, size))
	}
	data := func(text string) string {
		return edited(t, image, `"size":7`, `"size":7,"data":"`+base64.StdEncoding.EncodeToString([]byte(text))+`"`)
	}
	for name, c := range map[string]struct{ content, mediaType, says string }{
		"nothing":                  {"", specs.MediaTypeImageManifest, "the body is empty"},
		"no JSON":                  {"<html>", specs.MediaTypeImageManifest, "no JSON at byte 1"},
		"not UTF-8":                {edited(t, image, "{", "{\"x\":\"\xff\","), specs.MediaTypeImageManifest, "UTF-8"},
		"more behind it":           {image + "x", specs.MediaTypeImageManifest, "after top-level value"},
		"a list":                   {"[]", specs.MediaTypeImageManifest, "it is a JSON array, not an object"},
		"too deep":                 {edited(t, image, "{", `{"x":`+strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000)+","), specs.MediaTypeImageManifest, "exceeded max depth"},
		"a size in words":          {edited(t, image, `"size":7`, `"size":"7"`), specs.MediaTypeImageManifest, "layers.size of the manifest cannot be a JSON string"},
		"children in an object":    {`{"schemaVersion":2,"manifests":{}}`, specs.MediaTypeImageIndex, "manifests of the manifest cannot be a JSON object"},
		"index called manifest":    {index, specs.MediaTypeImageManifest, "its Content-Type that it is " + specs.MediaTypeImageManifest},
		"manifest called index":    {image, specs.MediaTypeImageIndex, "its Content-Type that it is " + specs.MediaTypeImageIndex},
		"another Content-Type":     {image, "text/plain", "send " + specs.MediaTypeImageManifest},
		"no Content-Type at all":   {edited(t, image, `"mediaType":"`+specs.MediaTypeImageManifest+`",`, ""), "", "there is no Content-Type"},
		"an odd Content-Type":      {image, ";;;", `the Content-Type is ";;;"`},
		"a type that nobody knows": {edited(t, index, specs.MediaTypeImageIndex, "a/b"), "a/b", `the Content-Type "a/b" is none of a manifest`},
		"schema 1":                 {`{"schemaVersion":1,"fsLayers":[]}`, "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1"},
		"no schemaVersion":         {edited(t, image, `"schemaVersion":2,`, ""), specs.MediaTypeImageManifest, "it must be 2"},
		"no config":                {`{"schemaVersion":2,"layers":[]}`, specs.MediaTypeImageManifest, "no config"},
		"an algorithm of old":      {edited(t, image, layer.String(), "md5:d41d8cd98f00b204e9800998ecf8427e"), specs.MediaTypeImageManifest, "no digest of sha256 or sha512"},
		"layer of another size":    {edited(t, image, `"size":7`, `"size":8`), specs.MediaTypeImageManifest, layer.String() + " has 8 bytes, in the repository it has 7"},
		"layer without a size":     {edited(t, image, `,"size":7`, ``), specs.MediaTypeImageManifest, "has 0 bytes"},
		"child of another size":    {edited(t, index, fmt.Sprintf(`"size":%d`, len(image)), `"size":1`), specs.MediaTypeImageIndex, "has 1 bytes"},
		"child of another type":    {edited(t, index, specs.MediaTypeImageManifest, specs.MediaTypeImageIndex), specs.MediaTypeImageIndex, "in the repository it is " + specs.MediaTypeImageManifest},
		"subject of another size":  {subject(specs.MediaTypeImageManifest, 1), specs.MediaTypeImageManifest, "has 1 bytes"},
		"subject of another type":  {subject(specs.MediaTypeImageIndex, len(image)), specs.MediaTypeImageManifest, "in the repository it is " + specs.MediaTypeImageManifest},
		"subject of no digest":     {edited(t, image, "{", `{"subject":{},`), specs.MediaTypeImageManifest, "the manifest's subject"},
		"subject in words":         {edited(t, image, "{", `{"subject":"x",`), specs.MediaTypeImageManifest, "subject of the manifest cannot be a JSON string"},
		"data of something else":   {data("another"), specs.MediaTypeImageManifest, "the data that the manifest has of " + layer.String()},
		"data cut short":           {data("a lay"), specs.MediaTypeImageManifest, "the data"},
		"a field twice":            {edited(t, image, "{", `{"layers":[],`), specs.MediaTypeImageManifest, `the field "layers" twice`},
		"a field twice below":      {edited(t, image, `"size":7`, `"size":7,"size":8`), specs.MediaTypeImageManifest, `the field "size" twice`},
		"a field in capitals":      {edited(t, image, `"layers"`, `"LAYERS"`), specs.MediaTypeImageManifest, `"LAYERS", which is spelled "layers"`},
		"in capitals below":        {edited(t, image, `"size":7`, `"Size":7`), specs.MediaTypeImageManifest, `"Size", which is spelled "size"`},
	} {
		t.Run(name, func(t *testing.T) {
			header := []string{"Content-Type", c.mediaType}
			if c.mediaType == "" {
				header = nil
			}
			res, body := h.do("PUT", "local/app/manifests/odd", c.content, header...)
			wantError(t, res, body, 400, "MANIFEST_INVALID")
			var e errorBody
			if err := json.Unmarshal([]byte(body), &e); err != nil || !strings.Contains(e.Errors[0].Message, c.says) || strings.Contains(body, "upstream") || strings.Contains(body, "Go ") {
				t.Errorf("%s does not say: %s", body, c.says)
			}
			h.want(404, "HEAD", "local/app/manifests/odd", "")
		})
	}
}

// TestManifestsOfOddButRightForms are taken: clients send them.
func TestManifestsOfOddButRightForms(t *testing.T) {
	h := newHome(t)
	d, image := h.pushImage("local/app", "v1", "a layer", nil)
	layer := digest.FromString("a layer")
	index := func(mediaType string, d digest.Digest, size int) string {
		return fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, mediaType, d, size)
	}
	for name, c := range map[string]struct{ content, mediaType, warning string }{
		"no Content-Type but its own":     {image, "", ""},
		"keys of annotations as it likes": {edited(t, image, "{", `{"annotations":{"a":"1","A":"2","Layers":"3"},`), specs.MediaTypeImageManifest, ""},
		"subject that is a blob":          {edited(t, image, "{", fmt.Sprintf(`{"subject":{"mediaType":"a/b","digest":%q,"size":1},`, layer)), specs.MediaTypeImageManifest, ""},
		"a build cache's index of layers": {index(specs.MediaTypeImageLayerGzip, layer, 7), specs.MediaTypeImageIndex, ""},
		"a child that is a blob only":     {index(specs.MediaTypeImageManifest, layer, 7), specs.MediaTypeImageIndex, `299 - "1 of the manifests that this index names are not in the repository"`},
		"a child":                         {index(specs.MediaTypeImageManifest, d, len(image)), specs.MediaTypeImageIndex, ""},
	} {
		t.Run(name, func(t *testing.T) {
			header := []string{"Content-Type", c.mediaType}
			if c.mediaType == "" {
				header = nil
			}
			res, _ := h.want(201, "PUT", "local/app/manifests/odd", c.content, header...)
			wantHeader(t, res, "Warning", c.warning)
		})
	}
}

// TestEachBlobThatIsMissingIsTold: whoever mends them one by one pushes once for each.
func TestEachBlobThatIsMissingIsTold(t *testing.T) {
	h := newHome(t)
	config := h.pushBlob("local/app", "{}")
	m := specs.Manifest{MediaType: specs.MediaTypeImageManifest, Config: config}
	m.SchemaVersion = 2
	push := func(layers int) errorBody {
		m.Layers = nil
		for i := range layers {
			m.Layers = append(m.Layers, specs.Descriptor{MediaType: specs.MediaTypeImageLayer, Digest: digest.FromString(fmt.Sprint(i)), Size: 1})
		}
		m.Layers = append(m.Layers, m.Layers[0]) // told once
		res, body := h.do("PUT", "local/app/manifests/v1", encode(t, m), "Content-Type", m.MediaType)
		wantError(t, res, body, 400, "MANIFEST_BLOB_UNKNOWN")
		var e errorBody
		if err := json.Unmarshal([]byte(body), &e); err != nil {
			t.Fatal(err)
		}
		return e
	}
	told := push(2).Errors
	if len(told) != 2 || told[0].Detail != digest.FromString("0").String() || told[1].Detail != digest.FromString("1").String() || told[1].Code != "MANIFEST_BLOB_UNKNOWN" {
		t.Errorf("%+v", told)
	}
	if told := push(1000).Errors; len(told) != 100 || !strings.HasSuffix(told[99].Message, "and 900 more") {
		t.Errorf("%d are told: %+v", len(told), told[len(told)-1])
	}
}

// TestSpecReferrersByPages follows Link to the end, in both ways to name a repository.
func TestSpecReferrersByPages(t *testing.T) {
	h := newHome(t)
	subject := specs.Descriptor{MediaType: specs.MediaTypeImageManifest, Digest: digest.FromString("later"), Size: 5}
	want := map[digest.Digest]bool{}
	for i := range 5 {
		d, _ := h.pushImage("local/app", "", "a layer", func(m *specs.Manifest) {
			m.Subject, m.ArtifactType = &subject, "application/sbom"
			m.Annotations = map[string]string{"text": strings.Repeat(fmt.Sprint(i), 1_400_000)}
		})
		want[d] = true
	}
	for _, start := range []string{"local/app/referrers/" + subject.Digest.String() + "?artifactType=application/sbom", "app/referrers/" + subject.Digest.String() + "?ns=local"} {
		got, pages := map[digest.Digest]bool{}, 0
		for next := start; next != ""; pages++ {
			res, body := h.want(200, "GET", next, "")
			var index specs.Index
			if err := json.Unmarshal([]byte(body), &index); err != nil || len(body) > 4<<20 {
				t.Fatalf("%d bytes, %v", len(body), err)
			}
			for _, d := range index.Manifests {
				got[d.Digest] = true
			}
			if filtered := res.Header.Get("OCI-Filters-Applied") != ""; filtered != strings.Contains(start, "artifactType") {
				t.Errorf("%s: filtered: %t", next, filtered)
			}
			next = strings.TrimPrefix(strings.TrimSuffix(res.Header.Get("Link"), `>; rel="next"`), "<")
		}
		if len(got) != len(want) || pages != 3 {
			t.Errorf("%s: %d on %d pages", start, len(got), pages)
		}
	}
	res, body := h.do("GET", "local/app/referrers/"+subject.Digest.String()+"?last=x", "")
	wantError(t, res, body, 400, "DIGEST_INVALID")
}

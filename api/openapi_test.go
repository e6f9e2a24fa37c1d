package api

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"maps"
	"mime"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"go.yaml.in/yaml/v3"

	"github.com/imagecache/imagecache/registry"
	"github.com/imagecache/imagecache/registry/registrytest"
)

var update = flag.Bool("update", false, "write openapi.json anew")

// TestTheDescriptionIsOne in both of its forms.
func TestTheDescriptionIsOne(t *testing.T) {
	var fromYAML, fromJSON any
	if err := yaml.Unmarshal(openAPIYAML, &fromYAML); err != nil {
		t.Fatal(err)
	}
	if *update {
		content, err := json.MarshalIndent(fromYAML, "", " ")
		if err == nil {
			err = os.WriteFile("openapi.json", append(content, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		openAPIJSON = content
	}
	content, err := json.Marshal(fromYAML) // numbers become those of JSON
	if err != nil {
		t.Fatal(err)
	}
	var again any
	if json.Unmarshal(content, &again) != nil || json.Unmarshal(openAPIJSON, &fromJSON) != nil || !reflect.DeepEqual(again, fromJSON) {
		t.Error("openapi.json is not what openapi.yaml says; run this test with -update")
	}
}

// description is the document, in which objects have no properties but those
// that it names: what an answer has besides would have been forgotten.
func description(t *testing.T) *openapi3.T {
	t.Helper()
	var raw any
	if err := json.Unmarshal(openAPIJSON, &raw); err != nil {
		t.Fatal(err)
	}
	closeObjects(raw)
	content, err := json.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(content)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(context.Background()); err != nil {
		t.Fatal(err)
	}
	return doc
}

func closeObjects(v any) {
	switch v := v.(type) {
	case map[string]any:
		if _, open := v["additionalProperties"]; v["properties"] != nil && v["type"] == "object" && !open {
			v["additionalProperties"] = false
		}
		for _, child := range v {
			closeObjects(child)
		}
	case []any:
		for _, child := range v {
			closeObjects(child)
		}
	}
}

func TestEveryEndpointIsDescribed(t *testing.T) {
	described := map[string]bool{}
	for path, at := range description(t).Paths.Map() {
		for method := range at.Operations() {
			described[method+" "+path] = true
		}
	}
	for path, byMethod := range New(Options{Registry: newShelf(t)}).adminRoutes() {
		for method := range byMethod {
			if !described[method+" "+path] {
				t.Errorf("%s %s is not in openapi.yaml", method, path)
			}
			delete(described, method+" "+path)
		}
	}
	if len(described) > 0 {
		t.Errorf("openapi.yaml describes what is not there: %v", slices.Collect(maps.Keys(described)))
	}
}

// givenRootfs gives one root filesystem, and mounts nothing.
type givenRootfs struct{}

func (givenRootfs) Acquire(_ context.Context, w RootfsWish, progress func(registry.Progress)) (Rootfs, error) {
	progress(registry.Progress{Reference: w.Reference, Phase: registry.PhaseFetch})
	return givenRootfs{}.Acquired(context.Background(), w.Key)
}

func (givenRootfs) Acquired(_ context.Context, key string) (Rootfs, error) {
	return Rootfs{Key: key, Config: []byte("{}"), Mounts: []RootfsMount{{Type: "bind", Source: "/x", Options: []string{"ro"}}},
		Lowers: []RootfsLower{{Path: "/x", Device: 1, Inode: 2}}}, nil
}

func (givenRootfs) List(context.Context) ([]Rootfs, error) {
	return []Rootfs{{Key: "/mnt", Digest: sha256d}}, nil
}
func (givenRootfs) Release(context.Context, string) error { return nil }

// TestAnswersAreAsDescribed asks every endpoint of a running server.
func TestAnswersAreAsDescribed(t *testing.T) {
	h := newHome(t)
	upstream := registrytest.New(t, registrytest.Options{})
	image := upstream.AddImage("app", "v1", []byte("a layer"))
	h.stopBefore(t, upstream)
	d, _ := h.pushImage("local/own", "v1", "a layer of our own", nil)
	app := upstream.Host() + "/app:v1"
	snapshotter := func() *SnapshotterStatus { return &SnapshotterStatus{} }
	url := listen(t, New(Options{Registry: h.registry, Rootfs: givenRootfs{}, Snapshotter: snapshotter}).Admin())
	archive := ""
	doc := description(t)
	left := map[string]bool{}
	for path, at := range doc.Paths.Map() {
		for method := range at.Operations() {
			left[method+" "+path] = true
		}
	}
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/api/v1/pull", `{"reference":"` + app + `"}`, 200},
		{"POST", "/api/v1/pull", `{"reference":"` + upstream.Host() + `/none:v1"}`, 200}, // the error is the last line
		{"POST", "/api/v1/pins", `{"reference":"` + app + `","platforms":["all"]}`, 200},
		{"GET", "/api/v1/pins?drift=true", "", 200},
		{"GET", "/api/v1/pins/export", "", 200},
		{"GET", "/api/v1/pins/export?format=json", "", 200},
		{"GET", "/api/v1/pins/matches?pattern=" + upstream.Host() + "/app:*", "", 200},
		{"POST", "/api/v1/pins/apply", `{"pins":[],"dry_run":true,"prune":true}`, 200},
		{"POST", "/api/v1/pins/rollback", `{"reference":"` + app + `"}`, 404},
		{"POST", "/api/v1/pins", `{"reference":"` + app + "@" + image.Digest.String() + `"}`, 200},
		{"POST", "/api/v1/drill", `{"references":["` + app + `"],"for_real":true}`, 200},
		{"GET", "/api/v1/status", "", 200},
		{"GET", "/api/v1/df", "", 200},
		{"GET", "/api/v1/images", "", 200},
		{"GET", "/api/v1/images/inspect?ref=" + app, "", 200},
		{"GET", "/api/v1/images/inspect", "", 400},
		{"DELETE", "/api/v1/images?ref=" + app, "", 409},
		{"POST", "/api/v1/match", `[{"digest":"` + d.String() + `"},{"digest":"` + sha256d + `","size":5}]`, 200},
		{"POST", "/api/v1/match", `[{"digest":"md5:1"}]`, 400},
		{"POST", "/api/v1/export", `{"references":["` + app + `","local/own:v1"],"dry_run":true}`, 200},
		{"POST", "/api/v1/export", `{"references":["` + app + `","local/own:v1"]}`, 200},
		{"POST", "/api/v1/import?pin=true", "tar", 200},
		{"POST", "/api/v1/import", "no tar", 400},
		{"POST", "/api/v1/gc", `{"dry_run":true}`, 200},
		{"GET", "/api/v1/access?caller=user:ann,group:dev&verb=push&repository=local/team/app", "", 200},
		{"GET", "/api/v1/access?caller=ann&verb=admin", "", 400},
		{"POST", "/api/v1/scrub", `{"all":true}`, 200},
		{"POST", "/api/v1/rootfs", `{"key":"/mnt","reference":"` + app + `"}`, 200},
		{"GET", "/api/v1/rootfs", "", 200},
		{"GET", "/api/v1/rootfs/mounts?key=/mnt", "", 200},
		{"DELETE", "/api/v1/rootfs?key=/mnt", "", 204},
		{"DELETE", "/api/v1/pins?ref=" + app, "", 204},
		{"DELETE", "/api/v1/images?ref=" + app, "", 200},
		{"GET", "/api/v1/openapi.json", "", 200},
		{"GET", "/api/v1/openapi.yaml", "", 200},
	} {
		path, _, _ := strings.Cut(c.path, "?")
		send, kind := c.body, "application/json"
		if path == "/api/v1/import" {
			kind = mediaTypeTar
			if send == "tar" {
				send = archive
			}
		}
		answer, body := sendTo(t, c.method, url+c.path, send, "Content-Type", kind)
		if answer.StatusCode != c.status {
			t.Errorf("%s %s: %d %s", c.method, c.path, answer.StatusCode, body)
			continue
		}
		if kind == "application/json" && send != "" {
			described(t, c.method+" "+c.path+", request", doc.Paths.Value(path).Operations()[c.method].RequestBody.Value.Content[kind], send, kind)
		}
		if answer.Header.Get("Content-Type") == mediaTypeTar {
			archive = body
		}
		asDescribed(t, c.method+" "+c.path, doc.Paths.Value(path).Operations()[c.method], answer, body)
		delete(left, c.method+" "+path)
	}
	if len(left) > 0 {
		t.Errorf("not asked: %v", slices.Collect(maps.Keys(left)))
	}
}

// stopBefore starts the registry of a home again, with an upstream.
func (h *home) stopBefore(t *testing.T, upstream *registrytest.Registry) {
	h.stop()
	h.upstreams = []registry.UpstreamOptions{{Name: upstream.Host(), URL: upstream.URL()}}
	h.start()
}

func sendTo(t *testing.T, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var all bytes.Buffer
	if _, err := all.ReadFrom(answer.Body); err != nil {
		t.Fatal(err)
	}
	return answer, all.String()
}

// asDescribed holds an answer against an operation.
func asDescribed(t *testing.T, what string, op *openapi3.Operation, answer *http.Response, body string) {
	t.Helper()
	said := op.Responses.Value(strconv.Itoa(answer.StatusCode))
	if said == nil {
		said = op.Responses.Default()
	}
	if body == "" && len(said.Value.Content) == 0 {
		return
	}
	kind, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	described(t, what, said.Value.Content[kind], body, kind)
}

// described holds content, or each line of it, against its schema.
func described(t *testing.T, what string, said *openapi3.MediaType, body, kind string) {
	t.Helper()
	if said == nil {
		t.Errorf("%s: %s is not described", what, kind)
		return
	}
	documents := []string{body}
	switch kind {
	case "application/x-ndjson":
		documents = strings.Split(strings.TrimSuffix(body, "\n"), "\n")
	case "application/json":
	default:
		return
	}
	for _, document := range documents {
		var v any
		if err := json.Unmarshal([]byte(document), &v); err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if err := said.Schema.Value.VisitJSON(v, openapi3.EnableJSONSchema2020()); err != nil {
			t.Errorf("%s: %v\n%s", what, err, document)
		}
	}
}

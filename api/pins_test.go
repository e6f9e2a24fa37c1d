package api

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/registry"
)

func TestPinsAsDesiredStateAreAdministered(t *testing.T) {
	url := admin(t, newShelf(t)) + "/api/v1/"
	answer, body := get(t, "GET", url+"pins/export")
	lock, err := registry.ParseLock([]byte(strings.ReplaceAll(body, "sha256:00", sha256d)))
	if answer.StatusCode != 200 || err != nil || len(lock.Pins) != 1 {
		t.Errorf("export: %d %v %s", answer.StatusCode, err, body)
	}
	wantHeader(t, answer, "Content-Type", "application/toml")
	for _, c := range []struct{ path, want string }{
		{"pins/export?format=json", `"reference":"registry.test/app:v1"`},
		{"pins?ref=nginx&ref=redis&drift=true", `"reference":"docker.io/library/redis:latest"`},
		{"pins/matches?pattern=registry.test/app:v*", `{"references":["registry.test/app:v1"]}`},
	} {
		if answer, body := get(t, "GET", url+c.path); answer.StatusCode != 200 || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %s", c.path, answer.StatusCode, body)
		}
	}
	for _, c := range []struct{ path, send, want string }{
		{"pins/apply", `{"pins":[{"reference":"x","digest":"y"}],"dry_run":true}`, `"action":"add","reference":"x","to":"y"`},
		{"pins/rollback", `{"reference":"nginx","to":"` + sha256d + `"}`, `{"pin":{"reference":"docker.io/library/nginx:latest","digest":"` + sha256d},
		{"drill", `{"references":["nginx"],"recent":"168h","for_real":true}`, `"failing":1,"expiring":0,"for_real":true`},
	} {
		if answer, body := post(t, url+c.path, c.send); answer.StatusCode != 200 || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %s", c.path, answer.StatusCode, body)
		}
	}
}

func TestPinsAsDesiredStateRefuseWhatIsWrong(t *testing.T) {
	url := admin(t, newShelf(t)) + "/api/v1/"
	for _, c := range []struct{ path, send, code string }{
		{"pins/apply", `{"prune":true}`, "REQUEST_INVALID"}, // no list would take all away
		{"pins/apply", `{"pins":[{"ref":"x"}]}`, "REQUEST_INVALID"},
		{"pins/rollback", `{"reference":"nginx","to":"sha256:1"}`, "DIGEST_INVALID"},
		{"drill", `{"recent":"7d"}`, "REQUEST_INVALID"},
		{"drill", `{"references":["x/UPPER"]}`, "NAME_INVALID"},
		{"pull", `{"reference":"nginx","update":true}`, "REQUEST_INVALID"},
	} {
		answer, body := post(t, url+c.path, c.send)
		wantError(t, answer, body, 400, c.code)
	}
	answer, body := get(t, "GET", url+"pins/export?format=yaml")
	wantError(t, answer, body, 400, "REQUEST_INVALID")
	answer, body = get(t, "GET", url+"pins/matches")
	wantError(t, answer, body, 400, "REQUEST_INVALID")
}

// OCI distribution spec 1.1, "Listing Referrers".
func TestReferrersAreListedAsAnIndex(t *testing.T) {
	_, url := newShelf(t).serve(t, Options{})
	url += "/v2/x/referrers/"
	answer, body := get(t, "GET", url+sha256d)
	if answer.StatusCode != 200 || strings.Count(body, `"artifactType"`) != 2 || !strings.HasPrefix(body, `{"schemaVersion":2,`) {
		t.Errorf("%d %s", answer.StatusCode, body)
	}
	wantHeader(t, answer, "Content-Type", specs.MediaTypeImageIndex, "OCI-Filters-Applied", "", "Cache-Status", "imagecache; hit")
	answer, body = get(t, "GET", url+sha256d+"?artifactType=application/sbom")
	if strings.Count(body, `"artifactType":"application/sbom"`) != 1 || strings.Contains(body, "signature") {
		t.Errorf("%s", body)
	}
	wantHeader(t, answer, "OCI-Filters-Applied", "artifactType")
	_, body = get(t, "GET", url+sha256d+"?artifactType=none")
	if !strings.Contains(body, `"manifests":[]`) {
		t.Errorf("%s", body)
	}
	answer, body = get(t, "GET", url+"sha256:1")
	wantError(t, answer, body, 400, "DIGEST_INVALID")
	answer, body = get(t, "HEAD", url+sha256d)
	if answer.StatusCode != 200 || body != "" {
		t.Errorf("HEAD: %d %q", answer.StatusCode, body)
	}
}

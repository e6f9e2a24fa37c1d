package api

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// TestParametersAreAsDescribed in both directions.
func TestParametersAreAsDescribed(t *testing.T) {
	for path, at := range description(t).Paths.Map() {
		for method, op := range at.Operations() {
			known := slices.Clone(parameters[method+" "+path])
			for _, said := range op.Parameters {
				schema := said.Value.Schema.Value
				want := parameter{name: said.Value.Name, many: schema.Type.Is("array"), isFlag: schema.Type.Is("boolean")}
				i := slices.Index(known, want)
				if i < 0 {
					t.Errorf("%s %s: %+v is described, there is %+v", method, path, want, known)
					continue
				}
				known = slices.Delete(known, i, i+1)
			}
			if len(known) > 0 {
				t.Errorf("%s %s: %+v is not described", method, path, known)
			}
		}
	}
}

func TestAQueryThatMeansNothingIsRefused(t *testing.T) {
	s := newShelf(t)
	url := listen(t, New(Options{Registry: s}).Admin())
	for _, c := range []struct{ method, path, want string }{
		{"DELETE", "/api/v1/images?ref=a&ref=b", "ref is given more than once"},
		{"DELETE", "/api/v1/pins?ref=a&ref=b", "ref is given more than once"},
		{"GET", "/api/v1/pins?drift=1", "drift is true or false"},
		{"POST", "/api/v1/import?pin=yes", "pin is true or false"},
		{"GET", "/api/v1/pins?refs=a", `no parameter \"refs\" here, but ref, drift`},
		{"GET", "/api/v1/status?verbose=true", `no parameter \"verbose\" here, nor any other`},
		{"GET", "/api/v1/images/inspect?ref=%zz", "the query cannot be read"},
	} {
		answer, body := sendTo(t, c.method, url+c.path, "", "Content-Type", mediaTypeTar)
		if answer.StatusCode != http.StatusBadRequest || !strings.Contains(body, c.want) {
			t.Errorf("%s %s: %d %s", c.method, c.path, answer.StatusCode, body)
		}
	}
}

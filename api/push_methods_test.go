package api

import "testing"

// TestARefusalNamesTheMethodsThatAreAnswered at each path of a home (RFC 9110,
// section 15.5.6).
func TestARefusalNamesTheMethodsThatAreAnswered(t *testing.T) {
	h := newHome(t)
	for path, allowed := range map[string]string{
		"local/app/blobs/" + digestOf("x"): "GET, HEAD, DELETE",
		"local/app/manifests/v1":           "GET, HEAD, PUT, DELETE",
		"local/app/tags/list":              "GET, HEAD",
		"local/app/blobs/uploads/x":        "GET, HEAD, PATCH, PUT, DELETE",
	} {
		if path == "local/app/blobs/uploads/x" { // of an upload that is there
			path = h.begin()
		}
		res, _ := h.want(405, "POST", path, "")
		if got := res.Header.Get("Allow"); got != allowed {
			t.Errorf("%s allows %q, want %q", path, got, allowed)
		}
	}
}

package api

import "testing"

// TestNamespaceThatIsGoneBy is told, so that a client knows a mirror that heeds ns from one that does not
// (distribution-spec, "Registry Proxying").
func TestNamespaceThatIsGoneBy(t *testing.T) {
	h := newHome(t)
	h.pushImage("local/app", "v1", "a layer", nil)
	for path, want := range map[string]string{
		"app/manifests/v1?ns=local":     "local",
		"app/tags/list?ns=local":        "local",
		"app/manifests/none?ns=local":   "local",
		"app/manifests/v1?ns=a.example": "a.example",
		"local/app/manifests/v1":        "",
		"?ns=local":                     "",
		"app/manifests/v1?ns=../local":  "",
	} {
		res, _ := h.do("GET", path, "")
		if got := res.Header.Get("OCI-Namespace"); got != want {
			t.Errorf("%s: %d with OCI-Namespace %q, want %q", path, res.StatusCode, got, want)
		}
	}
}

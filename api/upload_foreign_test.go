package api

import (
	"net/http"
	"strings"
	"testing"

	"github.com/imagecache/imagecache/api/access"
)

// TestAnUploadIsForWhoBeganIt: another caller with the same rights, who has its
// address out of a log, is told that there is none.
func TestAnUploadIsForWhoBeganIt(t *testing.T) {
	g := newGuarded(t, access.Rules{
		{Who: []string{"user:ann", "user:bob", "anonymous"}, May: []access.Verb{access.Pull, access.Push}, Repositories: []string{"local/**"}},
	})
	res, _ := g.want(202, "POST", "local/app/blobs/uploads/", "", as("ann")...)
	at := strings.TrimPrefix(res.Header.Get("Location"), "/v2/")
	for _, other := range []string{"bob", ""} {
		for _, request := range []struct{ method, path, body string }{
			{http.MethodGet, at, ""}, {http.MethodHead, at, ""}, {http.MethodPatch, at, "evil"},
			{http.MethodPut, at + "?digest=" + digestOf("evil"), "evil"}, {http.MethodDelete, at, ""},
		} {
			if res, _ := g.want(404, request.method, request.path, request.body, as(other)...); res.Header.Get("Range") != "" {
				t.Errorf("%s tells %q how far it has come", request.method, other)
			}
		}
	}
	g.want(202, "PATCH", at, "hers", as("ann")...)
	g.want(201, "PUT", at+"?digest="+digestOf("hers"), "", as("ann")...)
}

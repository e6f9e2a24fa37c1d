package registry

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// FuzzNextQuery reads what an upstream may write into Link: nothing of it but a
// query comes out, so that the next page is asked at the same address.
func FuzzNextQuery(f *testing.F) {
	for _, link := range []string{
		`</v2/a/tags/list?last=b&n=2>; rel="next"`, `<https://elsewhere.example/?a=b>; rel=next`, `<?last=b>;rel="prev", <?last=c>; REL=Next`,
		`</v2/a/tags/list?last=b>; rel="next"; title="a,b"`, `<>; rel=next`, `<%zz>; rel=next`, `< ?a b>; rel=next`, `<?a#b>; rel=next`, `rel=next`, ``,
	} {
		f.Add(link)
	}
	f.Fuzz(func(t *testing.T, link string) {
		query := nextQuery(http.Header{"Link": {link}})
		if !strings.Contains(link, query) || strings.ContainsAny(query, "#<>") && !strings.Contains(link, "<") {
			t.Fatalf("%q: %q", link, query)
		}
		next := url.URL{Scheme: "https", Host: "registry.example", Path: "/v2/a/tags/list", RawQuery: query}
		again, err := url.Parse(next.String())
		if err == nil && (again.Host != next.Host || again.Path != next.Path) {
			t.Fatalf("%q leads to %s", link, again)
		}
	})
}

// FuzzChallenge reads what an upstream may write into WWW-Authenticate.
func FuzzChallenge(f *testing.F) {
	for _, value := range []string{
		`Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a:pull"`, `Basic realm="a b"`, `basic`, `Bearer`, `Bearer realm=`, `Negotiate abc==`,
		`Bearer realm="\"",service=,`, `Basic realm="a", Bearer realm="https://b"`, `,`, ` `, `Bearer realm="https://a",realm="https://b"`, "Bearer realm=\"\x00\"",
	} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		c := challengeOf(http.Header{"Www-Authenticate": {value}})
		if c.scheme != strings.ToLower(c.scheme) {
			t.Fatalf("%q: %+v", value, c)
		}
		if c.scheme == "" && (c.realm != "" || c.service != "") {
			t.Fatalf("%q: parameters of no scheme: %+v", value, c)
		}
	})
}

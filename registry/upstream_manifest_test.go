package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/registry/registrytest"
)

func TestManifestByTagAndDigest(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{})
	image := r.AddImage("a/b", "v1", []byte("layer"))
	r.Add(registrytest.Rule{Path: "/manifests/v1", Lie: registrytest.Header("Cache-Control", "public, max-age=90")})
	u := upstreamOf(t, r)
	byTag := tagged(r, "a/b", "v1")
	byDigest := Reference{Repository: byTag.Repository, Tag: "gone", Digest: image.Digest}
	for _, ref := range []Reference{byTag, byDigest} {
		got, err := u.manifest(t.Context(), "a/b", ref)
		noErr(t, err)
		if !bytes.Equal(got.Content, image.Manifest) || got.Descriptor.Digest != image.Digest ||
			got.Descriptor.Size != image.Size || got.Descriptor.MediaType != specs.MediaTypeImageManifest || !got.Anonymous {
			t.Errorf("%s: got %+v", ref, got.Descriptor)
		}
		if want := time.Duration(0); ref == byTag && got.MaxAge != 90*time.Second || ref == byDigest && got.MaxAge != want {
			t.Errorf("%s: max age %v", ref, got.MaxAge)
		}
	}
	if n := r.Count("", "^/v2/$"); n != 0 {
		t.Errorf("%d pings by one who has no credential to send ahead", n)
	}
}

func TestManifestBySha512(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{})
	content := []byte(`{"schemaVersion":2,"layers":[]}`)
	d := digest.SHA512.FromBytes(content)
	r.AddManifestAs("a/b", specs.MediaTypeImageManifest, d, content)
	r.Tag("a/b", "v1", d)
	u := upstreamOf(t, r)
	got, err := u.manifest(t.Context(), "a/b", Reference{Repository: Repository{r.Host(), "a/b"}, Digest: d})
	noErr(t, err)
	if got.Descriptor.Digest != d {
		t.Errorf("by digest: %s", got.Descriptor.Digest)
	}
	got, err = u.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
	noErr(t, err)
	if got.Descriptor.Digest != d {
		t.Errorf("by tag: %s", got.Descriptor.Digest)
	}
}

func TestWrongManifestIsAskedForOnceMore(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{})
	image := r.AddImage("a/b", "v1")
	u := upstreamOf(t, r)
	ref := tagged(r, "a/b", "v1")
	flip := registrytest.Corrupt(int64(bytes.Index(image.Manifest, []byte("digest\":\"sha256:")) + 20))
	r.Add(registrytest.Rule{Path: "/manifests/", Times: 1, Lie: flip})
	_, err := u.manifest(t.Context(), "a/b", ref)
	noErr(t, err)
	r.Heal()
	r.ForgetRequests()
	r.Add(registrytest.Rule{Path: "/manifests/", Lie: flip})
	for _, ref := range []Reference{ref, {Repository: ref.Repository, Digest: image.Digest}} {
		_, err = u.manifest(t.Context(), "a/b", ref)
		e := wantCode(t, err, CodeUnavailable)
		if e.Reference != ref.String() || !strings.Contains(err.Error(), image.Digest.String()) {
			t.Errorf("the error is %v", err)
		}
	}
	if n := r.Count("GET", "/manifests/"); n != 4 {
		t.Errorf("asked %d times, want twice for each", n)
	}
}

func TestManifestIsBoundedAndMustBeOne(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{})
	u := upstreamOf(t, r)
	pad := func(n int) []byte {
		return append([]byte(`{"schemaVersion":2,"layers":[],"x":"`), append(bytes.Repeat([]byte("x"), n-38), `"}`...)...)
	}
	if n := len(pad(4 << 20)); n != 4<<20 {
		t.Fatal(n)
	}
	for _, c := range []struct {
		name, mediaType, content, want string
	}{
		{"largest", specs.MediaTypeImageManifest, string(pad(4 << 20)), ""},
		{"larger", specs.MediaTypeImageManifest, string(pad(4<<20 + 1)), "4 MiB"},
		{"html", "text/html", "<html>please log in</html>", "not a manifest"},
		{"both", specs.MediaTypeImageIndex, `{"manifests":[],"layers":[]}`, "both"},
		{"contradiction", specs.MediaTypeImageManifest, `{"mediaType":"` + specs.MediaTypeImageIndex + `","manifests":[]}`, "its Content-Type that it is"},
		{"odd type", "application/json", `{"mediaType":"a\nb","manifests":[]}`, "not a media type"},
		{"schema 1", "application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1}`, "schema 1"},
		{"neither", "", `{"schemaVersion":2}`, "neither layers nor manifests"},
		{"untyped index", "application/octet-stream", `{"manifests":[]}`, ""},
	} {
		d := r.AddManifest("a/b", c.mediaType, []byte(c.content))
		_, err := u.manifest(t.Context(), "a/b", Reference{Repository: Repository{r.Host(), "a/b"}, Digest: d.Digest})
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		var ours *Error
		if !errors.As(err, &ours) || ours.Code != CodeManifestInvalid || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want one with %q", c.name, err, c.want)
		}
	}
}

func TestHead(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{})
	image := r.AddImage("a/b", "v1")
	u := upstreamOf(t, r)
	got, err := u.head(t.Context(), "a/b", "v1")
	noErr(t, err)
	if got.Digest != image.Digest || got.Size != image.Size || got.MediaType != image.MediaType {
		t.Errorf("got %+v", got)
	}
	_, err = u.head(t.Context(), "a/b", "none")
	wantCode(t, err, CodeManifestUnknown)
	for name, lie := range map[string]registrytest.Lie{
		"no HEAD":         registrytest.NoHead(),
		"no digest":       registrytest.NoDigest(),
		"odd digest":      registrytest.Header("Docker-Content-Digest", "sha256:1"),
		"not implemented": registrytest.Answer(501, ""),
	} {
		r.Heal()
		r.Add(registrytest.Rule{Method: "HEAD", Path: "/manifests/", Lie: lie})
		if _, err := u.head(t.Context(), "a/b", "v1"); !errors.Is(err, errNoHead) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	r.Heal()
	r.Add(registrytest.Rule{Path: "/manifests/", Lie: registrytest.Header("Docker-Distribution-Api-Version", "")})
	if _, err := u.head(t.Context(), "a/b", "none"); !errors.Is(err, errNoHead) {
		t.Errorf("404 of what may be no registry: got %v", err)
	}
}

func TestStatusesBecomeErrors(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{})
	r.AddImage("a/b", "v1")
	u := upstreamOf(t, r)
	ref := tagged(r, "a/b", "v1")
	for _, c := range []struct {
		status     int
		want       Code
		permanent  bool
		resting    bool
		retryAfter time.Duration
	}{
		{400, CodeUnavailable, true, false, 0},
		{401, CodeUnauthorized, true, false, 0},
		{403, CodeDenied, true, false, 0},
		{404, CodeManifestUnknown, true, false, 0},
		{405, CodeUnavailable, true, false, 0},
		{500, CodeUnavailable, false, true, 7 * time.Second},
		{503, CodeUnavailable, false, true, 7 * time.Second},
		{429, CodeTooMany, false, true, 7 * time.Second},
	} {
		r.Heal()
		answer := ""
		if c.retryAfter > 0 {
			answer = "7"
		}
		r.Add(registrytest.Rule{Path: "/manifests/", Times: 1, Lie: registrytest.Answer(c.status, answer)})
		_, err := u.manifest(t.Context(), "a/b", ref)
		e := wantCode(t, err, c.want)
		if e.Permanent() != c.permanent || e.RetryAfter != c.retryAfter {
			t.Errorf("%d: permanent %v, retry after %v", c.status, e.Permanent(), e.RetryAfter)
		}
		if !strings.Contains(e.Message, "told to answer") {
			t.Errorf("%d: what upstream said is lost: %v", c.status, e)
		}
		_, why, resting := u.resting()
		if resting != c.resting || resting && why.Code != c.want {
			t.Errorf("%d: resting %v: %v", c.status, resting, why)
		}
		if resting && u.status().State != StateBackingOff {
			t.Errorf("%d: the status is %+v", c.status, u.status())
		}
		_, err = u.manifest(t.Context(), "a/b", ref)
		noErr(t, err)
		if _, _, resting := u.resting(); resting {
			t.Errorf("%d: resting after a success", c.status)
		}
	}
	if s := u.status(); s.State != StateOK || s.Requests == 0 || s.Failures == 0 || s.LastError == "" || s.LastErrorAt.IsZero() || s.Authenticated {
		t.Errorf("the status is %+v", s)
	}
}

func TestALimitIsTheUpstreamsWhoeverMeetsIt(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{})
	r.AddImage("a/b", "v1")
	u := upstreamOf(t, r)
	guest := u.guest(ann, func(string) {})
	r.Add(registrytest.Rule{Path: "/manifests/", Times: 1, Lie: registrytest.Answer(429, "60")})
	_, err := guest.manifest(t.Context(), "a/b", tagged(r, "a/b", "v1"))
	wantCode(t, err, CodeTooMany)
	for name, view := range map[string]*upstream{"ours": u, "nobody's": u.anonymous(), "the caller's": guest, "another's": u.guest(bob, nil)} {
		if _, _, resting := view.resting(); !resting {
			t.Errorf("%s: it does not rest", name)
		}
	}
}

func TestDeadUpstreamAndSlowUpstream(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{})
	r.AddImage("a/b", "v1")
	ref := tagged(r, "a/b", "v1")
	u := upstreamIn(t, upstreamEnv{headerTimeout: 50 * time.Millisecond}, r)
	r.Add(registrytest.Rule{Path: "/manifests/", Lie: registrytest.Hang()})
	_, err := u.manifest(t.Context(), "a/b", ref)
	wantCode(t, err, CodeTimeout)

	patient := upstreamOf(t, r)
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = patient.manifest(short, "a/b", ref)
	wantCode(t, err, CodeTimeout)
	if _, _, resting := patient.resting(); !resting {
		t.Error("not resting after a deadline")
	}

	left := upstreamOf(t, r)
	gone, leave := context.WithCancel(t.Context())
	seen := r.Count("GET", "/manifests/")
	go func() {
		r.Wait(t, "GET", "/manifests/", seen+1)
		leave()
	}()
	_, err = left.manifest(gone, "a/b", ref)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who left got %v", err)
	}
	if _, _, resting := left.resting(); resting {
		t.Error("upstream rests because a caller left")
	}

	r.Stop()
	_, err = patient.manifest(t.Context(), "a/b", ref)
	wantCode(t, err, CodeUnavailable)
	r.Heal()
	r.Start(t)
	_, err = patient.manifest(t.Context(), "a/b", ref)
	noErr(t, err)
}

func TestTagsFollowPages(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{PageSize: 7})
	image := r.AddImage("a/b", "")
	for i := range 30 {
		r.Tag("a/b", fmt.Sprintf("v%02d", i), image.Digest)
	}
	r.Tag("a/b", "not a tag", image.Digest)
	u := upstreamOf(t, r)
	got, err := u.tags(t.Context(), "a/b")
	noErr(t, err)
	if len(got) != 30 || got[0] != "v00" || got[29] != "v29" {
		t.Errorf("got %v", got)
	}
	if n := r.Count("GET", "/tags/list"); n != 5 {
		t.Errorf("%d pages", n)
	}
	_, err = u.tags(t.Context(), "a/none")
	wantCode(t, err, CodeNameUnknown)
}

func TestTagsAreBounded(t *testing.T) {
	r := registrytest.New(t, registrytest.Options{})
	r.AddImage("a/b", "v1")
	many := `{"tags":["a` + strings.Repeat(`","a`, maxTags) + `"]}`
	for name, lies := range map[string][]registrytest.Lie{
		"more than 100000": {registrytest.Substitute([]byte(many))},
		"10 MiB":           {registrytest.Substitute(bytes.Repeat([]byte(" "), maxTagsPage+1))},
		"cannot be read":   {registrytest.Substitute([]byte("<html>"))},
	} {
		r.Heal()
		for _, lie := range lies {
			r.Add(registrytest.Rule{Path: "/tags/", Lie: lie})
		}
		if _, err := upstreamOf(t, r).tags(t.Context(), "a/b"); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestNextQueryKeepsOnlyTheQuery(t *testing.T) {
	for link, want := range map[string]string{
		`</v2/a/tags/list?last=x&n=5>; rel="next"`:             "last=x&n=5",
		`<https://evil.example/v2/x?last=y>; rel=next`:         "last=y",
		`</a?b>; rel="prev", </c?last=z>; title=x; rel="next"`: "last=z",
		`</a?last=b>; rel="prev"`:                              "",
		`nonsense`:                                             "",
		``:                                                     "",
	} {
		if got := nextQuery(http.Header{"Link": {link}}); got != want {
			t.Errorf("%s: got %q", link, got)
		}
	}
}

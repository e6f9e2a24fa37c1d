package registry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// taker is an upstream that images are pushed to, and that answers as it is told.
type taker struct {
	*httptest.Server
	mu       sync.Mutex                           // guards what follows
	location string                               // of uploads; "%s" in it is the taker's own address
	answers  map[string]func(http.ResponseWriter) // to what comes by a method; nil: what is right
	asked    []string                             // method and path
	came     map[string]string                    // what was put, by path
}

const (
	annsLogin = "Basic YW5uOmhlcnM=" // ann:hers
	takerName = "taker.example"
)

var atTaker = Repository{Registry: takerName, Path: "team/app"}

func newTaker(t *testing.T) *taker {
	u := &taker{location: "/v2/team/app/blobs/uploads/1?state=x", answers: map[string]func(http.ResponseWriter){}, came: map[string]string{}}
	u.Server = httptest.NewServer(u)
	t.Cleanup(u.Close)
	return u
}

func (u *taker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != annsLogin {
		w.Header().Set("WWW-Authenticate", `Basic realm="taker"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	body, _ := io.ReadAll(r.Body)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked = append(u.asked, r.Method+" "+r.URL.Path)
	if answer := u.answers[r.Method]; answer != nil {
		answer(w)
		return
	}
	switch r.Method {
	case http.MethodPost:
		w.Header().Set("Location", strings.ReplaceAll(u.location, "%s", u.URL))
		w.WriteHeader(http.StatusAccepted)
	case http.MethodPut:
		u.came[r.URL.Path] = string(body)
		w.WriteHeader(http.StatusCreated)
	case http.MethodDelete:
		delete(u.came, r.URL.Path)
		w.WriteHeader(http.StatusAccepted)
	default:
		u.give(w, r)
	}
}

// give answers a question about a manifest.
func (u *taker) give(w http.ResponseWriter, r *http.Request) {
	content, ok := u.came[r.URL.Path]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", specs.MediaTypeImageManifest)
	w.Header().Set("Docker-Content-Digest", digest.FromString(content).String())
	_, _ = io.WriteString(w, content)
}

// answer has the taker answer a method so, and forgets what it was asked.
func (u *taker) answer(method string, with func(http.ResponseWriter)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answers[method], u.asked = with, nil
}

func (u *taker) was(asked string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Contains(u.asked, asked)
}

// throughCache is a cache that pushes through to a taker.
func throughCache(t *testing.T, u *taker) *cache {
	return newCache(t, registrytest.New(t, registrytest.Options{}), func(c *cache) {
		c.more = []UpstreamOptions{{Name: takerName, URL: u.URL, Access: AccessProven, Push: PushThrough, NoReadAhead: true}}
	})
}

func asAnn(t testing.TB) context.Context { return WithCaller(t.Context(), NewCaller(annsLogin)) }

func (c *cache) pushThrough(content string) error {
	ctx := asAnn(c.t)
	u, err := c.StartUpload(ctx, atTaker, "")
	if err != nil {
		return err
	}
	return c.FinishUpload(ctx, atTaker, u.ID, digest.FromString(content), sent(0, content))
}

// emptyImage is a manifest that needs but its config.
func emptyImage(t *testing.T) string {
	t.Helper()
	m := specs.Manifest{MediaType: specs.MediaTypeImageManifest, Config: specs.DescriptorEmptyJSON, Layers: []specs.Descriptor{}}
	m.SchemaVersion = 2
	content, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func answering(status int, body string, header ...string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// TestThroughTellsWhatUpstreamHasAgainstIt: what the client can mend is told to it
// in upstream's words, and what it cannot is upstream's failure.
func TestThroughTellsWhatUpstreamHasAgainstIt(t *testing.T) {
	for name, c := range map[string]struct {
		status   int
		body     string
		code     Code
		answered int
	}{
		"a code of the specification": {400, `{"errors":[{"code":"MANIFEST_INVALID","message":"no such field"}]}`, CodeManifestInvalid, 400},
		"another one than we think":   {404, `{"errors":[{"code":"NAME_UNKNOWN","message":"make the project first"}]}`, CodeNameUnknown, 404},
		"a code of its own":           {422, `{"errors":[{"code":"POLICY_1","message":"not signed"}]}`, CodeManifestInvalid, 422},
		"no body":                     {413, "", CodeManifestInvalid, 413},
		"a page":                      {405, "<html>", CodeUnsupported, 405},
		"a conflict":                  {409, `{"errors":[{"code":"DENIED","message":"tags are immutable"}]}`, CodeDenied, 409},
		"refused":                     {403, `{"errors":[{"code":"DENIED","message":"read only"}]}`, CodeDenied, 0},
		"limited":                     {429, "", CodeTooMany, 0},
		"broken":                      {500, `{"errors":[{"code":"MANIFEST_INVALID"}]}`, CodeUnavailable, 0},
		"late":                        {504, "", CodeTimeout, 0},
	} {
		t.Run(name, func(t *testing.T) {
			u := newTaker(t)
			cache := throughCache(t, u)
			u.answer(http.MethodPut, answering(c.status, c.body, "Retry-After", "7"))
			_, err := cache.PutManifest(asAnn(t), Reference{Repository: atTaker, Tag: "v1"}, specs.MediaTypeImageManifest, []byte(emptyImage(t)))
			e := wantCode(t, err, c.code)
			if e.Answered != c.answered || !strings.Contains(e.Message, "upstream") {
				t.Errorf("%d %q, want %d", e.Answered, e.Message, c.answered)
			}
			if c.code == CodeTooMany && e.RetryAfter != 7*time.Second {
				t.Errorf("retry after %s", e.RetryAfter)
			}
		})
	}
}

func TestThroughAsksWhoIsRefusedForAnotherCredential(t *testing.T) {
	c := throughCache(t, newTaker(t))
	_, err := c.StartUpload(WithCaller(t.Context(), NewCaller("Basic YW5uOndyb25n")), atTaker, "")
	if e := wantCode(t, err, CodeUnauthorized); e.SignIn != takerName {
		t.Errorf("it is asked to sign in at %q", e.SignIn)
	}
	if left, err := c.store.Ingests(); err != nil || len(left) != 0 {
		t.Errorf("%d uploads were begun, %v", len(left), err)
	}
}

// TestThroughSendsBlobsWhereUpstreamWantsThem, and the login nowhere but to upstream.
func TestThroughSendsBlobsWhereUpstreamWantsThem(t *testing.T) {
	for name, location := range map[string]string{
		"a path": "/v2/team/app/blobs/uploads/1?state=x", "beside": "1?state=x", "an address": "%s/v2/team/app/blobs/uploads/1?state=x",
	} {
		t.Run(name, func(t *testing.T) {
			u := newTaker(t)
			u.location = location
			c := throughCache(t, u)
			if err := c.pushThrough("a blob"); err != nil || u.came["/v2/team/app/blobs/uploads/1"] != "a blob" {
				t.Errorf("%v, %q", err, u.came)
			}
		})
	}
	t.Run("another host", func(t *testing.T) {
		u := newTaker(t)
		var login, got string
		storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			login, got = login+r.Header.Get("Authorization"), string(body)
			w.WriteHeader(http.StatusCreated)
		}))
		t.Cleanup(storage.Close)
		u.location = storage.URL + "/put"
		if err := throughCache(t, u).pushThrough("a blob"); err != nil || got != "a blob" || login != "" {
			t.Errorf("%v, %q, login %q", err, got, login)
		}
	})
	for name, location := range map[string]string{"nowhere": "", "no web": "ftp://127.0.0.1/x", "a metadata service": "http://169.254.169.254/x", "a user": "http://ann@127.0.0.1/x"} {
		t.Run(name, func(t *testing.T) {
			u := newTaker(t)
			u.location = location
			wantCode(t, throughCache(t, u).pushThrough("a blob"), CodeUnavailable)
		})
	}
}

func TestThroughKeepsToTLS(t *testing.T) {
	u, err := newUpstream(UpstreamOptions{Name: takerName, URL: "https://" + takerName}, upstreamEnv{})
	if err != nil {
		t.Fatal(err)
	}
	defer u.close()
	begin := u.at("app", "blobs/uploads/")
	got, err := u.uploadAt(begin, "http://"+takerName+"/v2/app/blobs/uploads/1")
	if want := (&url.URL{Scheme: "https", Host: takerName, Path: "/v2/app/blobs/uploads/1"}); err != nil || *got != *want {
		t.Errorf("%v, %v", got, err)
	}
	_, err = u.uploadAt(begin, "http://elsewhere.example/1")
	wantCode(t, err, CodeUnavailable)
}

// TestThroughUpstreamDiesInTheMiddle: the client is told so, and goes on when it is
// back, without sending the bytes again.
func TestThroughUpstreamDiesInTheMiddle(t *testing.T) {
	u := newTaker(t)
	c := throughCache(t, u)
	u.answer(http.MethodPut, func(http.ResponseWriter) { panic(http.ErrAbortHandler) })
	wantCode(t, c.pushThrough("a blob"), CodeUnavailable)
	u.answer(http.MethodPut, nil)
	if err := c.pushThrough("a blob"); err != nil {
		t.Error(err)
	}
}

// pushedThrough is a cache through which an image was pushed as v1 and v2.
func pushedThrough(t *testing.T, u *taker) (c *cache, image digest.Digest) {
	t.Helper()
	c = throughCache(t, u)
	if err := c.pushThrough("{}"); err != nil {
		t.Fatal(err)
	}
	content := []byte(emptyImage(t))
	for _, tag := range []string{"v1", "v2"} {
		if _, err := c.PutManifest(asAnn(t), Reference{Repository: atTaker, Tag: tag}, specs.MediaTypeImageManifest, content); err != nil {
			t.Fatal(err)
		}
	}
	image = digest.FromBytes(content)
	u.mu.Lock()
	u.came["/v2/team/app/manifests/"+image.String()] = string(content)
	u.mu.Unlock()
	eventually(t, func() bool { // what outlives the push is written
		one, err1 := c.state.tag(atTaker.String() + ":v1")
		two, err2 := c.state.tag(atTaker.String() + ":v2")
		return errors.Join(err1, err2) == nil && one.Digest == image && two.Digest == image
	})
	return c, image
}

// TestThroughDeletes: what upstream has deleted is not answered from here.
func TestThroughDeletes(t *testing.T) {
	u := newTaker(t)
	c, image := pushedThrough(t, u)
	v1, v2 := Reference{Repository: atTaker, Tag: "v1"}, Reference{Repository: atTaker, Tag: "v2"}
	absent := func(ref Reference) {
		t.Helper()
		_, _, err := c.Manifest(asAnn(t), ref)
		wantCode(t, err, CodeManifestUnknown)
	}
	if err := c.DeleteTag(asAnn(t), v1); err != nil || !u.was("DELETE /v2/team/app/manifests/v1") {
		t.Fatal(err, u.asked)
	}
	absent(v1)
	if _, ok := c.tagged(v1.String()); ok {
		t.Error("the tag is remembered, and would be answered as stale")
	}
	if _, _, err := c.Manifest(asAnn(t), v2); err != nil {
		t.Error("the other tag is gone:", err)
	}
	config := digest.FromString("{}")
	if err := c.DeleteBlob(asAnn(t), atTaker, config); err != nil || !u.was("DELETE /v2/team/app/blobs/"+config.String()) {
		t.Fatal(err, u.asked)
	}
	if _, err := c.store.Stat(config); err != nil {
		t.Error("an image that is cached needs it:", err)
	}
	_, _, err := c.BlobInfo(asAnn(t), atTaker, config)
	wantCode(t, err, CodeBlobUnknown)
	if err := c.DeleteManifest(asAnn(t), atTaker, image); err != nil || !u.was("DELETE /v2/team/app/manifests/"+image.String()) {
		t.Fatal(err, u.asked)
	}
	u.mu.Lock()
	clear(u.came)
	u.mu.Unlock()
	absent(v2)
	absent(Reference{Repository: atTaker, Digest: image})
	if how, err := c.state.hold(atTaker, image); err != nil || how != "" {
		t.Errorf("it is held as before: %q, %v", how, err)
	}
}

// TestThroughDeletesNothingThatUpstreamKeeps, that is pinned, or for nobody.
func TestThroughDeletesNothingThatUpstreamKeeps(t *testing.T) {
	u := newTaker(t)
	c, image := pushedThrough(t, u)
	v1, v2 := Reference{Repository: atTaker, Tag: "v1"}, Reference{Repository: atTaker, Tag: "v2"}
	u.answer(http.MethodDelete, answering(405, `{"errors":[{"code":"UNSUPPORTED","message":"off"}]}`))
	if e := wantCode(t, c.DeleteManifest(asAnn(t), atTaker, image), CodeUnsupported); e.Answered != 405 {
		t.Errorf("%d", e.Answered)
	}
	u.answer(http.MethodDelete, nil)
	wantCode(t, c.DeleteTag(t.Context(), v1), CodeUnauthorized)
	wantCode(t, c.DeleteTag(t.Context(), reference(t, "registry.test/app:v1")), CodeUnsupported)
	_, err := c.Pin(t.Context(), Reference{Repository: atTaker, Tag: "v1", Digest: image}, nil, func(Progress) {})
	if _, ok := c.pinned(v1); !ok {
		t.Fatal("not pinned:", err)
	}
	for _, err := range []error{c.DeleteTag(asAnn(t), v1), c.DeleteManifest(asAnn(t), atTaker, image), c.DeleteBlob(asAnn(t), atTaker, digest.FromString("{}"))} {
		wantCode(t, err, CodePinned)
	}
	if err := c.DeleteTag(asAnn(t), v2); err != nil {
		t.Error(err)
	}
	if u.was("DELETE /v2/team/app/manifests/v1") || u.was("DELETE /v2/team/app/manifests/"+image.String()) {
		t.Error("upstream was asked to delete what is pinned")
	}
}

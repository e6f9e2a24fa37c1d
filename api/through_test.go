package api

import (
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	upstreams "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry"
)

// TestPushThrough: what is pushed goes on to the upstream with the caller's own
// login, is refused where that is, and is served from here afterwards.
func TestPushThrough(t *testing.T) {
	var gets atomic.Int64
	inner := upstreams.New(upstreams.Logger(log.New(t.Output(), "", 0)))
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user != "ann" || password != "hers" {
			w.Header().Set("WWW-Authenticate", `Basic realm="up"`)
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		if r.Method == http.MethodGet {
			gets.Add(1)
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(upstream.Close)
	h := &home{t: t, folder: t.TempDir()}
	var err error
	if h.store, err = layerstore.Open(layerstore.Options{Root: filepath.Join(h.folder, "root"), Describe: registry.Describe}); err != nil {
		t.Fatal(err)
	}
	h.registry, err = registry.New(registry.Options{Store: h.store, Path: filepath.Join(h.folder, "registry.db"), Upstreams: []registry.UpstreamOptions{
		{Name: "up.example", URL: upstream.URL, Access: registry.AccessProven, Push: registry.PushThrough},
		{Name: "closed.example", URL: upstream.URL, Access: registry.AccessProven},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.stop)
	h.url = listen(t, New(Options{Registry: h.registry}).Mirror())

	image, err := random.Image(100_000, 3)
	if err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(h.url, "http://")
	push := func(to string, who authn.Authenticator) error {
		ref, err := name.ParseReference(host + "/" + to)
		if err != nil {
			t.Fatal(err)
		}
		return remote.Write(ref, image, remote.WithAuth(who), remote.WithContext(t.Context()))
	}
	ann := &authn.Basic{Username: "ann", Password: "hers"}
	for to, who := range map[string]authn.Authenticator{
		"up.example/team/app:v1": authn.Anonymous, "up.example/team/app:v2": &authn.Basic{Username: "ann", Password: "wrong"}, "closed.example/team/app:v1": ann,
	} {
		if err := push(to, who); err == nil {
			t.Errorf("%s is taken from %v", to, who)
		}
	}
	if left, err := h.store.Ingests(); err != nil || len(left) != 0 {
		t.Errorf("who may not push left %d uploads here, %v", len(left), err)
	}
	if err := push("up.example/team/app:v1", ann); err != nil {
		t.Fatal(err)
	}
	direct, err := name.ParseReference(strings.TrimPrefix(upstream.URL, "http://") + "/team/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	there, err := remote.Image(direct, remote.WithAuth(ann), remote.WithContext(t.Context()))
	if err != nil {
		t.Fatalf("upstream has it not: %v", err)
	}
	want, err := image.Digest()
	if got, gerr := there.Digest(); err != nil || gerr != nil || got != want {
		t.Errorf("upstream has %v, %v, %v", got, err, gerr)
	}
	before := gets.Load()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	d, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	res, _ := h.want(200, "GET", "up.example/team/app/blobs/"+d.String(), "", "Authorization", "Basic YW5uOmhlcnM=")
	wantHeader(t, res, "Cache-Status", "imagecache; hit")
	h.want(200, "GET", "up.example/team/app/manifests/v1", "", "Authorization", "Basic YW5uOmhlcnM=")
	if n := gets.Load() - before; n != 0 {
		t.Errorf("upstream was asked %d times for what was pushed", n)
	}
	h.want(401, "GET", "up.example/team/app/blobs/"+d.String(), "")
}

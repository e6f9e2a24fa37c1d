package api_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/imagecache/imagecache/api"
	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry"
)

// The rooms put together: a store, the registry on it, and the API over both.
func Example() {
	root, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(root)
	store, err := layerstore.Open(layerstore.Options{Root: root})
	if err != nil {
		panic(err)
	}
	defer store.Close()
	reg, err := registry.New(registry.Options{Store: store, Path: filepath.Join(root, "registry.db"), Open: true})
	if err != nil {
		panic(err)
	}
	defer reg.Close()

	mirror := httptest.NewServer(api.New(api.Options{Registry: reg}).Mirror())
	defer mirror.Close()
	for _, path := range []string{"/v2/", "/v2/team/app/manifests/v1?ns=registry.unknown"} {
		answer, err := http.Get(mirror.URL + path)
		if err != nil {
			panic(err)
		}
		answer.Body.Close()
		fmt.Println(answer.StatusCode)
	}
	// Output:
	// 200
	// 404
}

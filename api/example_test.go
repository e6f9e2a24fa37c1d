package api_test

import (
	"fmt"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/imagecache/imagecache/api"
	"github.com/imagecache/imagecache/layerstore"
	"github.com/imagecache/imagecache/registry"
)

// A mirror needs a store and a registry; no network.
func Example() {
	folder, err := os.MkdirTemp("", "imagecache")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(folder)
	store, err := layerstore.Open(layerstore.Options{Root: filepath.Join(folder, "root")})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	cache, err := registry.New(registry.Options{Store: store, Path: filepath.Join(folder, "registry.db")})
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close()
	server := api.New(api.Options{Registry: cache})

	for _, path := range []string{"/v2/", "/v2/app/manifests/v1?ns=unknown.example", "/v2/a/../b/tags/list"} {
		answer := httptest.NewRecorder()
		server.Mirror().ServeHTTP(answer, httptest.NewRequest("GET", path, nil))
		fmt.Println(answer.Code, path)
	}
	// Output:
	// 200 /v2/
	// 404 /v2/app/manifests/v1?ns=unknown.example
	// 400 /v2/a/../b/tags/list
}

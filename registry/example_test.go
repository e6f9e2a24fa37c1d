package registry_test

import (
	"errors"
	"fmt"

	"github.com/imagecache/imagecache/registry"
)

func ExampleParseReference() {
	for _, s := range []string{"nginx", "ghcr.io/org/tool:v2", "localhost:5000/app@sha256:0000000000000000000000000000000000000000000000000000000000000000"} {
		ref, err := registry.ParseReference(s)
		if err != nil {
			panic(err)
		}
		fmt.Println(ref)
	}
	_, err := registry.ParseReference("Not/A/Name")
	var e *registry.Error
	fmt.Println(errors.As(err, &e), e.Code)
	// Output:
	// docker.io/library/nginx:latest
	// ghcr.io/org/tool:v2
	// localhost:5000/app@sha256:0000000000000000000000000000000000000000000000000000000000000000
	// true NAME_INVALID
}

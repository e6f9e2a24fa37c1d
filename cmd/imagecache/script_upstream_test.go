package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/imagecache/imagecache/registry/registrytest"
)

// upstream runs a registry until all scripts have ended, with an image team/app of 100 kB under each given tag, and puts what
// --upstream wants into UPSTREAM: it is called up.example.
func upstream(t *testing.T) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, _ bool, tags []string) {
		up := registrytest.New(t, registrytest.Options{})
		for i, tag := range tags {
			up.AddImage("team/app", tag, registrytest.Bytes(byte(i), 100_000))
		}
		ts.Setenv("UPSTREAM", "up.example="+up.URL())
	}
}

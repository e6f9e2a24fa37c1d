package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/imagecache/imagecache/registry"
)

func TestStatusShowsMirrorsAndWhatIsLeftOfAnAllowance(t *testing.T) {
	content, err := json.Marshal(registry.Status{Upstreams: []registry.UpstreamStatus{{
		Name: "docker.io", URL: "https://registry-1.docker.io", State: registry.StateOK,
		Allowance: &registry.Allowance{Limit: 100, Remaining: 9, Kept: true},
		Mirrors:   []registry.UpstreamStatus{{Name: "m.example", URL: "https://m.example/hub", State: registry.StateBackingOff, Requests: 5}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	c := &cli{out: &out}
	if err := c.printStatus(content); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ALLOWANCE", "9 of 100, kept", "  mirror m.example", "https://m.example/hub"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

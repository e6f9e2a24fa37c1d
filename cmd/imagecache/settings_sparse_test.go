package main

import (
	"strings"
	"testing"
)

func TestSparseIsForHomes(t *testing.T) {
	for text, want := range map[string]bool{"": false, "sparse = \"on\"\n": true, "sparse = \"off\"\n": false} {
		for _, home := range []string{"local", "registry.own.example"} {
			s, _, err := load(t, "[upstreams.\""+home+"\"]\n"+text, nil, nil)
			if err != nil || s.Upstreams[home].Sparse != want {
				t.Errorf("%s: %q gives %v, %v", home, text, s.Upstreams[home].Sparse, err)
			}
		}
	}
	for text, want := range map[string]string{
		"[upstreams.\"local\"]\nsparse = \"yes\"\n":                                 "neither on nor off",
		"[upstreams.\"docker.io\"]\nsparse = \"on\"\n":                              "is no home",
		"[upstreams.\"a.example\"]\nurl = \"https://a.example\"\nsparse = \"on\"\n": "is no home",
		"[upstreams.\"a.example\"]\ntag_ttl = \"1m\"\nsparse = \"on\"\n":            "has no url",
	} {
		if _, _, err := load(t, text, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q gives %v", text, err)
		}
	}
}

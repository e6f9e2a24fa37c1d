package main

import (
	"testing"
	"time"
)

func TestAStaleMaxOfNothingIsNone(t *testing.T) {
	for value, want := range map[string]time.Duration{"0s": time.Nanosecond, "720h": 720 * time.Hour} {
		s, _, err := load(t, "[upstreams.\"docker.io\"]\nstale_max = \""+value+"\"\n", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		// Zero would be the default of the registry, any age: who writes 0s wants no stale answers.
		if u := s.Upstreams["docker.io"]; u.StaleMax != want {
			t.Errorf("a stale_max of %s became %v", value, u.StaleMax)
		}
	}
}

package main

import (
	"testing"
	"time"
)

func TestGrantsOfAnUpstream(t *testing.T) {
	s, _, err := load(t, "[upstreams.\"docker.io\"]\ngrant_ttl = \"90s\"\ngrant_grace = \"0s\"\n", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	u := s.Upstreams["docker.io"]
	if u.GrantTTL != 90*time.Second || showGrant(u.GrantTTL, defaultGrantTTL) != "1m30s" {
		t.Errorf("grant_ttl is %v, shown as %s", u.GrantTTL, showGrant(u.GrantTTL, defaultGrantTTL))
	}
	// Zero would be the default of the registry: who writes 0s wants none.
	if u.GrantGrace != time.Nanosecond || showGrant(u.GrantGrace, defaultGrantGrace) != "0s" {
		t.Errorf("a grant_grace of 0s became %v, shown as %s", u.GrantGrace, showGrant(u.GrantGrace, defaultGrantGrace))
	}
	if _, _, err := load(t, "[upstreams.\"docker.io\"]\ngrant_ttl = \"soon\"\n", nil, nil); err == nil {
		t.Error("soon is taken for a time")
	}
}

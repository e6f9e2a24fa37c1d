package main

import (
	"errors"
	"testing"
)

// TestWhatARefusalIsAboutDecidesOverItsHint: a word of an upstream is not one of the daemon's rules.
func TestWhatARefusalIsAboutDecidesOverItsHint(t *testing.T) {
	remote := &adminClient{address: adminAddress{tcp: "cache.example:5051", tls: true}}
	for _, c := range []struct {
		answer daemonError
		want   string
	}{
		{daemonError{Status: 403, Code: "DENIED"}, "the daemon's access.rules say who has the verb admin"},
		{daemonError{Status: 403, Code: "DENIED", Detail: "docker.io/library/nginx:latest"}, ""},
		{daemonError{Status: 401, Code: "UNAUTHORIZED", Detail: "docker.io/library/nginx:latest"}, ""},
		{daemonError{Status: 403, Code: "UNSUPPORTED"}, ""}, // of root filesystems, which says itself where to ask
		{daemonError{Status: 429, Code: "TOOMANYREQUESTS", Wait: "300"}, "ask again in 300 seconds"},
		{daemonError{Status: 404, Code: "MANIFEST_UNKNOWN"}, ""},
	} {
		var hinted *hintedError
		hint := ""
		if errors.As(remote.hint(&c.answer), &hinted) {
			hint = hinted.hint
		}
		if hint != c.want {
			t.Errorf("%+v: the hint is %q, want %q", c.answer, hint, c.want)
		}
	}
}

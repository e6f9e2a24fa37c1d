package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestWhatCountsAsACredential(t *testing.T) {
	for authorization, counts := range map[string]bool{
		"Basic YW5uOnNlY3JldA==":                 true, // ann:secret
		"basic YW5uOnM6ZWNyZXQ=":                 true, // ann:s:ecret
		"Bearer abc.def":                         true,
		"":                                       false,
		"Basic":                                  false,
		"Basic Og==":                             false, // what skopeo sends without a login
		"Basic YW5uOg==":                         false, // ann:
		"Basic not base64":                       false,
		"Bearer a b":                             false,
		"Digest username=ann":                    false,
		"Bearer " + strings.Repeat("x", 100_000): false,
		"Negotiate YII" + strings.Repeat("A", 100): false,
	} {
		if c := NewCaller(authorization); c.Anonymous() == counts {
			t.Errorf("%.40q: anonymous is %v", authorization, c.Anonymous())
		}
	}
}

func TestACallerIsNeverPrinted(t *testing.T) {
	c := NewCaller("Basic YW5uOnNlY3JldA==")
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("asked", "caller", c, "in", struct{ Who Caller }{c})
	encoded, err := json.Marshal(map[string]any{"caller": c})
	if err != nil {
		t.Fatal(err)
	}
	hidden := struct{ who Caller }{c}
	printed := log.String() + string(encoded) + fmt.Sprint(c, &c, WithCaller(context.Background(), c))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		printed += fmt.Sprintf(verb, c) + fmt.Sprintf(verb, &c) + fmt.Sprintf(verb, hidden) + fmt.Sprintf(verb, []Caller{c})
	}
	for _, secret := range []string{"ann", "secret", "YW5u", fmt.Sprintf("%x", "secret")} {
		if strings.Contains(printed, secret) {
			t.Errorf("%q is in %s", secret, printed)
		}
	}
	if !strings.Contains(printed, "a credential") {
		t.Error("nothing was printed")
	}
}

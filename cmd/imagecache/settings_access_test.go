package main

import (
	"strings"
	"testing"
)

// TestAccessThatIsWronglyWritten is told with what is wanted.
func TestAccessThatIsWronglyWritten(t *testing.T) {
	for value, says := range map[string]string{
		"http://login.example audience=a":                   "want https",
		"https://login.example":                             "want an issuer's url and an audience",
		"login.example audience=a":                          "want an issuer's url and an audience",
		"https://login.example audience=a claim=sub":        "want audience=, username=, groups=, prefix=, ca_file= or keys_file=",
		"https://login.example audience=":                   "not \"audience=\"",
		"https://a.example audience=a; http://b.example x=": "http://b.example",
	} {
		if err := setIssuers(&Settings{}, value); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", value, err, says)
		}
	}
	for _, fine := range []string{"http://127.0.0.1:5556/dex audience=a", "http://localhost audience=a", "http://cluster.internal audience=a keys_file=/keys.json"} {
		if err := setIssuers(&Settings{}, fine); err != nil {
			t.Errorf("%q: %v", fine, err)
		}
	}
	for value, says := range map[string]string{
		"user:ann, group:dev pull local/**": "no space behind a comma",
		"user:ann":                          "is not a rule: want who, what and where",
		"user:ann write local/**":           "want pull, push, delete, admin or metrics",
		"ann pull local/**":                 "want *, anonymous, or one of user:, oidc:, group: and certificate:",
		"user:ann pull local/Team/*":        "in lower case",
		"user:ann pull":                     "** is all of them",
		"user:ann admin local/**":           "about the whole daemon",
	} {
		err := setRules(&Settings{}, "user:root admin; "+value)
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), value) {
			t.Errorf("%q: %v, want %q", value, err, says)
		}
	}
}

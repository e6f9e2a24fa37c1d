package api

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/imagecache/imagecache/api/access"
)

// TestWhatTheRulesSayIsTold as it is done: by the same rules, and with what
// else is in the way.
func TestWhatTheRulesSayIsTold(t *testing.T) {
	gate, err := access.New(access.Options{HtpasswdFile: usersFile(t, "ann"), Rules: someRules})
	if err != nil {
		t.Fatal(err)
	}
	h := newHome(t)
	ruled := listen(t, New(Options{Registry: h.registry, Gate: gate}).Admin())
	closed := listen(t, New(Options{Registry: h.registry}).Admin())
	open := listen(t, New(Options{Registry: h.registry, Push: true}).Admin())
	for _, c := range []struct {
		where, caller, verb, repository string
		allowed                         bool
		says                            string // rule and reason
	}{
		{ruled, "user:ann", "push", "local/team/app:v1", true, "user:ann pull,push local/**"},
		{ruled, "user:ann", "delete", "local/team/app", false, "no rule allows it"},
		{ruled, "user:bob", "pull", "local/free/app", true, "anonymous pull local/free/*"},
		{ruled, "anonymous", "pull", "local/free/app", true, "anonymous pull local/free/*"},
		{ruled, "user:root,group:x", "pull", "nginx", true, "user:root pull,push,delete **"},
		{ruled, "user:root", "push", "nginx", false, "it is no home"},
		{ruled, "user:root", "admin", "", false, "no rule allows it"},
		{ruled, "user:root", "metrics", "", false, "no rule allows it"},
		{closed, "anonymous", "pull", "nginx", true, "no rule is in force"},
		{closed, "anonymous", "push", "local/app", false, "pushing is closed"},
		{closed, "anonymous", "metrics", "", true, "no rule is in force"},
		{closed, "user:root", "admin", "", false, "its socket"},
		{open, "anonymous", "push", "local/app", true, "no rule is in force"},
	} {
		query := url.Values{"caller": {c.caller}, "verb": {c.verb}}
		if c.repository != "" {
			query.Set("repository", c.repository)
		}
		answer, body := get(t, "GET", c.where+"/api/v1/access?"+query.Encode())
		var v Verdict
		if err := json.Unmarshal([]byte(body), &v); err != nil || answer.StatusCode != 200 {
			t.Fatalf("%d %s", answer.StatusCode, body)
		}
		if v.Allowed != c.allowed || !strings.Contains(v.Rule+"; "+v.Reason, c.says) {
			t.Errorf("%s %s %s: %s, want %v and %q", c.caller, c.verb, c.repository, body, c.allowed, c.says)
		}
	}
	for query, says := range map[string]string{
		"caller=ann&verb=pull&repository=nginx":             `\"ann\" is no caller`,
		"caller=user:ann&verb=write&repository=nginx":       `\"write\" is no verb`,
		"caller=user:ann&verb=pull":                         "repository is missing",
		"caller=user:ann&verb=admin&repository=nginx":       "without a repository",
		"caller=user:ann&verb=pull&repository=local/Team/x": "not the name of a repository",
	} {
		if answer, body := get(t, "GET", ruled+"/api/v1/access?"+query); answer.StatusCode != 400 || !strings.Contains(body, says) {
			t.Errorf("%s: %d %s, want %q", query, answer.StatusCode, body, says)
		}
	}
}

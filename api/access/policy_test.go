package access

import (
	"testing"
)

func TestRules(t *testing.T) {
	rules := Rules{
		{Who: []string{"anonymous"}, May: []Verb{Pull}, Repositories: []string{"docker.io/library/*"}},
		{Who: []string{"user:ann", "group:dev"}, May: []Verb{Pull, Push}, Repositories: []string{"local/team/**"}},
		{Who: []string{"certificate:node-*"}, May: []Verb{Pull}, Repositories: []string{"**"}},
		{Who: []string{"*"}, May: []Verb{Pull}, Repositories: []string{"*.example/free/**"}},
		{Who: []string{"user:root"}, May: []Verb{Admin}},
	}
	if err := rules.Check(); err != nil {
		t.Fatal(err)
	}
	ann, dev, node := Caller{Name: "user:ann"}, Caller{Name: "oidc:x", Groups: []string{"ops", "dev"}}, Caller{Name: "certificate:node-7"}
	for _, c := range []struct {
		who        Caller
		verb       Verb
		repository string
		want       bool
	}{
		{nobody, Pull, "docker.io/library/alpine", true},
		{nobody, Pull, "docker.io/library/a/b", false},
		{nobody, Push, "docker.io/library/alpine", false},
		{nobody, Pull, "local/team/app", false},
		{ann, Push, "local/team/app", true},
		{ann, Push, "local/team/a/b/c", true},
		{ann, Push, "local/team", false},
		{ann, Push, "local/teammate/app", false},
		{ann, Delete, "local/team/app", false},
		{ann, Pull, "docker.io/library/alpine", false}, // anonymous is a caller like others
		{ann, Admin, "", false},
		{dev, Push, "local/team/app", true},
		{Caller{Name: "oidc:dev"}, Push, "local/team/app", false},
		{Caller{Name: "user:dev"}, Push, "local/team/app", false},
		{Caller{Name: "user:group:dev"}, Push, "local/team/app", false},
		{node, Pull, "ghcr.io/any/thing", true},
		{Caller{Name: "certificate:other"}, Pull, "ghcr.io/any/thing", false},
		{nobody, Pull, "a.example/free/x/y", true},
		{nobody, Pull, "a/b.example/free/x", false},
		{nobody, Pull, "a.example/freedom/x", false},
		{Caller{Name: "user:root"}, Admin, "", true},
		{Caller{}, Pull, "docker.io/library/alpine", false},
	} {
		if got := rules.Allow(c.who, c.verb, c.repository); got != c.want {
			t.Errorf("%v %s %s: %v", c.who, c.verb, c.repository, got)
		}
	}
}

func TestRulesThatMeanNothing(t *testing.T) {
	good := Rule{Who: []string{"*"}, May: []Verb{Pull}, Repositories: []string{"**"}}
	for name, change := range map[string]func(*Rule){
		"nobody":           func(r *Rule) { r.Who = nil },
		"a bare name":      func(r *Rule) { r.Who = []string{"ann"} },
		"an unknown kind":  func(r *Rule) { r.Who = []string{"robot:ann"} },
		"an odd pattern":   func(r *Rule) { r.Who = []string{"user:["} },
		"no verb":          func(r *Rule) { r.May = nil },
		"an unknown verb":  func(r *Rule) { r.May = []Verb{"write"} },
		"no repositories":  func(r *Rule) { r.Repositories = nil },
		"an empty one":     func(r *Rule) { r.Repositories = []string{""} },
		"** in the middle": func(r *Rule) { r.Repositories = []string{"a/**/b"} },
		"an odd one":       func(r *Rule) { r.Repositories = []string{"a/["} },
	} {
		rule := good
		change(&rule)
		if (Rules{good, rule}).Check() == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

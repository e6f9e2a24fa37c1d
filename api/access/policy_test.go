package access

import (
	"strings"
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
		{ann, Pull, "docker.io/library/alpine", true}, // as it could without saying who it is
		{ann, Push, "docker.io/library/alpine", false},
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
		{Caller{Name: "certificate:other"}, Pull, "docker.io/library/alpine", true},
	} {
		if got := rules.Allow(c.who, c.verb, c.repository); got != c.want {
			t.Errorf("%v %s %s: %v", c.who, c.verb, c.repository, got)
		}
	}
}

// TestPatternsOfCallers: names hold slashes, and * does not go past one.
func TestPatternsOfCallers(t *testing.T) {
	for _, c := range []struct {
		who, name string
		want      bool
	}{
		{"oidc:repo:team/*:ref:refs/heads/main", "oidc:repo:team/app:ref:refs/heads/main", true},
		{"oidc:repo:team/*:ref:refs/heads/main", "oidc:repo:team/app:ref:refs/heads/main2", false},
		{"oidc:repo:team/*:ref:refs/heads/main", "oidc:repo:other/app:ref:refs/heads/main", false},
		{"oidc:repo:team/*:ref:refs/heads/main", "oidc:repo:team/app:ref:refs/heads/x/refs/heads/main", false},
		{"oidc:repo:team/app:ref:refs/tags/v*", "oidc:repo:team/app:ref:refs/tags/v1.2", true},
		{"oidc:repo:team/app:**", "oidc:repo:team/app:ref:refs/heads/a/b", true},
		{"oidc:repo:team/app:**", "oidc:repo:team/app2:ref:refs/heads/main", false},
		{"oidc:repo:team/*:**", "oidc:repo:team/app:pull_request", true},
		{"oidc:repo:team/*:**", "oidc:repo:teams/app:pull_request", false},
		{"oidc:project_path:group/*:ref_type:branch:ref:main", "oidc:project_path:group/app:ref_type:branch:ref:main", true},
		{"oidc:system:serviceaccount:build:*", "oidc:system:serviceaccount:build:robot", true},
		{"oidc:system:serviceaccount:build:*", "oidc:system:serviceaccount:other:robot", false},
		{"oidc:*", "oidc:repo:team/app:ref:refs/heads/main", true},
		{"oidc:*", "user:ann", false},
		{"user:*", "oidc:user:ann", false},
		{"certificate:spiffe://cluster.local/ns/*/sa/builder", "certificate:spiffe://cluster.local/ns/ci/sa/builder", true},
		{"certificate:spiffe://cluster.local/ns/ci/**", "certificate:spiffe://cluster.local/ns/ci/sa/builder", true},
		{"certificate:ann", "user:ann", false},
		{"user:a?n", "user:ann", true},
		{"user:Ann", "user:ann", false},
		{"oidc:**", "oidc:" + strings.Repeat("a", maxName+1), false},
	} {
		rules := Rules{{Who: []string{c.who}, May: []Verb{Admin}}}
		if err := rules.Check(); err != nil {
			t.Fatal(err)
		}
		if got := rules.Allow(Caller{Name: c.name}, Admin, ""); got != c.want {
			t.Errorf("%s is %s: %v", c.name, c.who, got)
		}
	}
}

// TestPatternsOfRepositories with ports and stars.
func TestPatternsOfRepositories(t *testing.T) {
	for _, c := range []struct {
		pattern, repository string
		want                bool
	}{
		{"registry:5000/team/*", "registry:5000/team/app", true},
		{"registry:5000/team/*", "registry:5001/team/app", false},
		{"registry:*/team/*", "registry:5000/team/app", true},
		{"local/app-?", "local/app-1", true},
		{"local/app-?", "local/app-12", false},
		{"local/*/app", "local/a/b/app", false},
		{"*/**", "ghcr.io/a/b", true},
		{"ghcr.io/**", "ghcr.io/a/b", true},
		{"ghcr.io/**", "ghcr.io.example/a/b", false},
		{"local/[ab]/x", "local/b/x", true},
	} {
		rules := Rules{{Who: []string{"*"}, May: []Verb{Pull}, Repositories: []string{c.pattern}}}
		if err := rules.Check(); err != nil {
			t.Fatal(err)
		}
		if got := rules.Allow(nobody, Pull, c.repository); got != c.want {
			t.Errorf("%s covers %s: %v", c.pattern, c.repository, got)
		}
	}
}

func TestRulesThatMeanNothing(t *testing.T) {
	good := Rule{Who: []string{"*"}, May: []Verb{Pull}, Repositories: []string{"**"}}
	for says, change := range map[string]func(*Rule){
		"no caller or no verb":                                          func(r *Rule) { r.Who = nil },
		`"ann" is no caller: want *, anonymous,`:                        func(r *Rule) { r.Who = []string{"ann"} },
		`"robot:ann" is no caller`:                                      func(r *Rule) { r.Who = []string{"robot:ann"} },
		`"user:" is no caller`:                                          func(r *Rule) { r.Who = []string{"user:"} },
		`"" is no caller`:                                               func(r *Rule) { r.Who = []string{"user:ann", ""} },
		"a [ without its ]":                                             func(r *Rule) { r.Who = []string{"user:["} },
		"no pattern of callers: ** stands":                              func(r *Rule) { r.Who = []string{"oidc:**:x"} },
		"it names no caller or no verb":                                 func(r *Rule) { r.May = nil },
		`"write" is no verb: want pull, push, delete, admin or metrics`: func(r *Rule) { r.May = []Verb{"write"} },
		"** is all of them":                                             func(r *Rule) { r.Repositories = nil },
		"it is empty":                                                   func(r *Rule) { r.Repositories = []string{""} },
		"no repository: ** stands":                                      func(r *Rule) { r.Repositories = []string{"a/**/b"} },
		"no repository: a [ without":                                    func(r *Rule) { r.Repositories = []string{"a/["} },
		"in lower case":                                                 func(r *Rule) { r.Repositories = []string{"local/Team/*"} },
		"want the registry first":                                       func(r *Rule) { r.Repositories = []string{"nginx"} },
		`"*" can fit no repository`:                                     func(r *Rule) { r.Repositories = []string{"*"} },
		"local/team/** is all":                                          func(r *Rule) { r.Repositories = []string{"local/team/"} },
		"a part is empty":                                               func(r *Rule) { r.Repositories = []string{"/team/app"} },
		"without a tag":                                                 func(r *Rule) { r.Repositories = []string{"local/team/app:v1"} },
		"without https://":                                              func(r *Rule) { r.Repositories = []string{"https://ghcr.io/**"} },
		"** stands for whole parts":                                     func(r *Rule) { r.Repositories = []string{"local/team**"} },
		"docker.io/library/alpine":                                      func(r *Rule) { r.Repositories = []string{"docker.io/alpine"} },
		"admin is about the whole":                                      func(r *Rule) { r.May, r.Repositories = []Verb{Admin}, []string{"local/**"} },
		"metrics is about the whole":                                    func(r *Rule) { r.May, r.Repositories = []Verb{Pull, Metrics}, []string{"local/**"} },
		"it names no repositories to pu":                                func(r *Rule) { r.May, r.Repositories = []Verb{Admin, Push}, nil },
	} {
		rule := good
		change(&rule)
		if err := (Rules{good, rule}).Check(); err == nil || !strings.Contains(err.Error(), says) || !strings.HasPrefix(err.Error(), "rule 2: ") {
			t.Errorf("%v, want that it says %q", err, says)
		}
	}
	for _, fine := range []Rule{{Who: []string{"user:root"}, May: []Verb{Pull, Admin, Metrics}, Repositories: []string{"**"}}, {Who: []string{"user:prom"}, May: []Verb{Metrics}}} {
		if err := (Rules{fine}).Check(); err != nil {
			t.Error(err)
		}
	}
}

// TestWhy tells the rule, and who of two kinds may see the metrics.
func TestWhy(t *testing.T) {
	g, err := New(Options{Rules: Rules{
		{Who: []string{"group:dev"}, May: []Verb{Pull, Push}, Repositories: []string{"local/team/**"}},
		{Who: []string{"user:prom"}, May: []Verb{Metrics}},
		{Who: []string{"*"}, May: []Verb{Admin}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		caller     string
		verb       Verb
		repository string
		number     int
	}{
		{"oidc:ann,group:dev", Push, "local/team/app", 1},
		{"group:dev", Push, "local/team/app", 1},
		{"oidc:ann,group:ops", Push, "local/team/app", 0},
		{"user:prom", Metrics, "", 2},
		{"user:ann", Metrics, "", 3}, // by administrating
		{"anonymous", Metrics, "", 0},
	} {
		caller, err := ParseCaller(c.caller)
		if err != nil {
			t.Fatal(err)
		}
		if number, rule := g.Why(caller, c.verb, c.repository); number != c.number || (number > 0) != (rule.String() != "") {
			t.Errorf("%s %s %s: rule %d %s, want %d", c.caller, c.verb, c.repository, number, rule, c.number)
		}
	}
	for _, wrong := range []string{"", "ann", "user:", "user:a,user:b", "anonymous,user:a", "*", "group:"} {
		if c, err := ParseCaller(wrong); err == nil {
			t.Errorf("%q is taken for %v", wrong, c)
		}
	}
}

package access

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Verb is what a caller wants to do.
type Verb string

// Verbs. Admin is the administration, which has no repository.
const (
	Pull   Verb = "pull" // read, list tags, see that something is there
	Push   Verb = "push"
	Delete Verb = "delete"
	Admin  Verb = "admin"
)

var verbs = []Verb{Pull, Push, Delete, Admin}

// Rule says that some callers may do something in some repositories.
type Rule struct {
	// Who are callers: "anonymous"; "user:ann" of the htpasswd file;
	// "oidc:ann" and "group:dev" of an issuer's token; "certificate:node-1".
	// Behind the colon * stands for any part: "certificate:node-*", "user:*".
	// "*" is everybody.
	Who []string
	May []Verb
	// Repositories are full names: "docker.io/library/alpine", "local/team/*",
	// where * stands for a part without a slash and ** at the end for all that
	// is below. Of no use to Admin.
	Repositories []string
}

// check finds what in a rule means nothing.
func (r Rule) check() error {
	if len(r.Who) == 0 || len(r.May) == 0 {
		return fmt.Errorf("it names no caller or no verb")
	}
	for _, who := range r.Who {
		kind, _, named := strings.Cut(who, ":")
		if who != everybody && who != Anonymous && !(named && slices.Contains(kinds, kind)) {
			return fmt.Errorf("%q is no caller: want *, anonymous, or one of user:, oidc:, group: and certificate: with a name", who)
		}
		if _, err := path.Match(who, ""); err != nil {
			return fmt.Errorf("%q is no pattern: %w", who, err)
		}
	}
	for _, verb := range r.May {
		if !slices.Contains(verbs, verb) {
			return fmt.Errorf("%q is no verb: want pull, push, delete or admin", verb)
		}
		if verb != Admin && len(r.Repositories) == 0 {
			return fmt.Errorf("it names no repositories to %s", verb)
		}
	}
	for _, pattern := range r.Repositories {
		if _, err := path.Match(strings.TrimSuffix(pattern, "**"), ""); err != nil || pattern == "" || strings.Contains(strings.TrimSuffix(pattern, "**"), "**") {
			return fmt.Errorf("%q is no pattern of repositories: want one such as docker.io/library/*, or local/** for all below", pattern)
		}
	}
	return nil
}

const everybody = "*"

// kinds are what may stand before the colon of a caller.
var kinds = []string{kindUser, kindOIDC, kindGroup, kindCertificate}

// names reports whether the rule is about a caller.
func (r Rule) names(c Caller) bool {
	return slices.ContainsFunc(r.Who, func(who string) bool {
		if who == everybody || who == c.Name {
			return true
		}
		if !strings.Contains(who, ":") {
			return false
		}
		if fits, _ := path.Match(who, c.Name); fits {
			return true
		}
		return slices.ContainsFunc(c.Groups, func(group string) bool {
			fits, _ := path.Match(who, kindGroup+":"+group)
			return fits
		})
	})
}

func (r Rule) covers(repository string) bool {
	return slices.ContainsFunc(r.Repositories, func(pattern string) bool {
		if below, all := strings.CutSuffix(pattern, "**"); all {
			return covered(below, repository)
		}
		fits, _ := path.Match(pattern, repository)
		return fits
	})
}

// covered reports whether a repository lies below what a pattern begins with,
// which may hold * itself.
func covered(below, repository string) bool {
	if below == "" {
		return true
	}
	parts := strings.Count(below, "/")
	for i := range repository {
		if repository[i] == '/' {
			if parts--; parts == 0 {
				fits, _ := path.Match(below, repository[:i+1])
				return fits
			}
		}
	}
	return false
}

// Rules are what all callers may do.
type Rules []Rule

// Check finds the first rule that means nothing.
func (r Rules) Check() error {
	for i, rule := range r {
		if err := rule.check(); err != nil {
			return fmt.Errorf("rule %d: %w", i+1, err)
		}
	}
	return nil
}

// Allow reports whether a caller may do something in a repository.
func (r Rules) Allow(c Caller, verb Verb, repository string) bool {
	return slices.ContainsFunc(r, func(rule Rule) bool {
		return slices.Contains(rule.May, verb) && rule.names(c) && (verb == Admin || rule.covers(repository))
	})
}

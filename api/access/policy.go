package access

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Verb is what a caller wants to do.
type Verb string

// Verbs. Admin is the administration and Metrics a look at /metrics; neither
// has a repository. Who is known and may administrate sees the metrics, too.
const (
	Pull    Verb = "pull" // read, list tags, see that something is there
	Push    Verb = "push"
	Delete  Verb = "delete"
	Admin   Verb = "admin"
	Metrics Verb = "metrics"
)

var verbs = []Verb{Pull, Push, Delete, Admin, Metrics}

// ParseVerb takes the name of a verb.
func ParseVerb(name string) (Verb, error) {
	if !slices.Contains(verbs, Verb(name)) {
		return "", fmt.Errorf("%q is no verb: want pull, push, delete, admin or metrics", name)
	}
	return Verb(name), nil
}

// Everywhere reports whether a verb is about the whole daemon, and has no
// repository.
func (v Verb) Everywhere() bool { return v == Admin || v == Metrics }

// Rule says that some callers may do something in some repositories.
type Rule struct {
	// Who are callers: "anonymous", which is everybody who asks for less than to
	// administrate, for a credential takes nothing away; "user:ann" of the htpasswd file;
	// "oidc:ann" and "group:dev" of an issuer's token; "certificate:node-1".
	// "*" is everybody, "user:*" all of a kind. Elsewhere behind the colon *
	// stands for any part without a slash, ? for one character of it, and ** at
	// the end for all that follows: "oidc:repo:team/app:ref:refs/heads/**".
	Who []string
	May []Verb
	// Repositories are full names: "docker.io/library/alpine", "local/team/*",
	// where * and ? stand for the same and "/**" at the end for all that is
	// below. Admin and Metrics have none.
	Repositories []string
}

// String is the rule as it is written in the settings.
func (r Rule) String() string {
	may := make([]string, len(r.May))
	for i, verb := range r.May {
		may[i] = string(verb)
	}
	return strings.TrimSpace(strings.Join([]string{strings.Join(r.Who, ","), strings.Join(may, ","), strings.Join(r.Repositories, ",")}, " "))
}

// check finds what in a rule means nothing, or not what it seems to.
func (r Rule) check() error {
	if len(r.Who) == 0 || len(r.May) == 0 {
		return errors.New("it names no caller or no verb")
	}
	for _, who := range r.Who {
		if err := checkWho(who); err != nil {
			return err
		}
	}
	for _, verb := range r.May {
		if err := r.checkVerb(verb); err != nil {
			return err
		}
	}
	for _, pattern := range r.Repositories {
		if err := checkPattern(pattern); err != nil {
			return fmt.Errorf("%q can fit no repository: %w", pattern, err)
		}
	}
	return nil
}

func (r Rule) checkVerb(verb Verb) error {
	if _, err := ParseVerb(string(verb)); err != nil {
		return err
	}
	switch {
	case !verb.Everywhere() && len(r.Repositories) == 0:
		return fmt.Errorf("it names no repositories to %s; ** is all of them", verb)
	case verb.Everywhere() && len(r.Repositories) > 0 && !slices.Contains(r.Repositories, "**"):
		return fmt.Errorf("%s is about the whole daemon, not about some repositories: give it a rule of its own, without any", verb)
	}
	return nil
}

func checkWho(who string) error {
	kind, name, named := strings.Cut(who, ":")
	if who != everybody && who != Anonymous && (!named || name == "" || !slices.Contains(kinds, kind)) {
		return fmt.Errorf("%q is no caller: want *, anonymous, or one of user:, oidc:, group: and certificate: with a name", who)
	}
	if err := checkStars(who); err != nil {
		return fmt.Errorf("%q is no pattern of callers: %w", who, err)
	}
	return nil
}

// checkStars refuses what path.Match does not take, and ** but at the end.
func checkStars(pattern string) error {
	before := strings.TrimSuffix(pattern, "**")
	if _, err := path.Match(before, ""); err != nil {
		return errors.New("a [ without its ], or a \\ at the end")
	}
	if strings.Contains(before, "**") {
		return errors.New("** stands at the end only")
	}
	return nil
}

// checkPattern finds out why a pattern cannot fit any full name of a
// repository, as far as that can be told.
func checkPattern(pattern string) error {
	if pattern == "**" {
		return nil
	}
	registry, below, parted := strings.Cut(pattern, "/")
	switch {
	case pattern == "":
		return errors.New("it is empty; ** is all repositories")
	case strings.Contains(pattern, "://"):
		return errors.New("write the registry's name as in references, without https://")
	case strings.ToLower(pattern) != pattern:
		return errors.New("names of repositories are in lower case")
	case !parted:
		return errors.New("want the registry first, as in docker.io/library/alpine or local/team/*; ** is all repositories")
	case registry == "" || strings.HasSuffix(pattern, "/") || strings.Contains(pattern, "//"):
		return errors.New("a part is empty; local/team/** is all that is below local/team")
	case strings.ContainsAny(below, ":@"):
		return errors.New("want the name of a repository, without a tag or a digest")
	case strings.HasSuffix(below, "**") && below != "**" && !strings.HasSuffix(below, "/**"):
		return errors.New("** stands for whole parts: local/team/** is all that is below local/team")
	case registry == "docker.io" && !strings.Contains(below, "/") && below != "**":
		return errors.New("on docker.io there are two parts at least: docker.io/library/alpine")
	}
	return checkStars(pattern)
}

const everybody = "*"

// kinds are what may stand before the colon of a caller.
var kinds = []string{kindUser, kindOIDC, kindGroup, kindCertificate}

// names reports whether the rule is about a caller.
func (r Rule) names(c Caller) bool {
	return slices.ContainsFunc(r.Who, func(who string) bool {
		if who == everybody || who == c.Name || fits(who, c.Name) {
			return true
		}
		return strings.HasPrefix(who, kindGroup+":") && slices.ContainsFunc(c.Groups, func(group string) bool {
			return fits(who, kindGroup+":"+group)
		})
	})
}

// fits reports whether a rule's caller stands for a name of some kind.
func fits(who, name string) bool {
	kind, pattern, named := strings.Cut(who, ":")
	if !named || !strings.HasPrefix(name, kind+":") || len(name) > maxName+len(kind)+1 {
		return false
	}
	if pattern == "*" {
		return true
	}
	before, all := strings.CutSuffix(who, "**")
	if !all {
		fit, _ := path.Match(who, name)
		return fit
	}
	if !strings.ContainsAny(before, `*?[\`) {
		return strings.HasPrefix(name, before)
	}
	for i := range len(name) + 1 {
		if fit, _ := path.Match(before, name[:i]); fit {
			return true
		}
	}
	return false
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
	return r.find(c, verb, repository) >= 0
}

// find is the index of the first rule that allows it, -1 where none does: of
// those that name the caller, else of those for anonymous. Who is known could as
// well not say who it is; but nobody unknown administrates, whatever a rule says.
func (r Rules) find(c Caller, verb Verb, repository string) int {
	i := r.naming(c, verb, repository)
	if i < 0 && c.Known() && verb != Admin {
		i = r.naming(nobody, verb, repository)
	}
	return i
}

// naming is find among the rules that name the caller itself.
func (r Rules) naming(c Caller, verb Verb, repository string) int {
	return slices.IndexFunc(r, func(rule Rule) bool {
		return slices.Contains(rule.May, verb) && rule.names(c) && (verb.Everywhere() || rule.covers(repository))
	})
}

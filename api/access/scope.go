package access

import (
	"fmt"
	"slices"
	"strings"
)

// ScopeError is a scope that is not understood.
type ScopeError struct{ Scope string }

func (e *ScopeError) Error() string {
	return fmt.Sprintf("%q is no scope: want one such as repository:local/team/app:pull,push", e.Scope)
}

// grant is what the rules allow of some scopes, parted by spaces. It is for the
// client's information: rules are looked at with each request. Of other kinds
// than repositories nothing is granted by name.
func (g *Gate) grant(c Caller, scopes []string) (string, error) {
	var granted []string
	for _, scope := range scopes {
		kind, rest, _ := strings.Cut(scope, ":")
		colon := strings.LastIndexByte(rest, ':') // a name may hold a port
		if kind == "" || colon <= 0 || colon == len(rest)-1 {
			return "", &ScopeError{scope}
		}
		name, wanted := rest[:colon], strings.Split(rest[colon+1:], ",")
		allowed := slices.DeleteFunc(wanted, func(action string) bool {
			return kind != "repository" || !g.does(c, action, name)
		})
		if len(allowed) > 0 {
			granted = append(granted, kind+":"+name+":"+strings.Join(allowed, ","))
		}
	}
	return strings.Join(granted, " "), nil
}

// does reports whether the rules allow what docker calls an action.
func (g *Gate) does(c Caller, action, name string) bool {
	if action == "*" {
		return g.Allow(c, Pull, name) && g.Allow(c, Push, name) && g.Allow(c, Delete, name)
	}
	verb, err := ParseVerb(action)
	return err == nil && !verb.Everywhere() && g.Allow(c, verb, name)
}

// actions are what docker's scopes call a verb.
func actions(verb Verb) string {
	switch verb {
	case Push:
		return "pull,push"
	case Delete:
		return "delete"
	}
	return "pull"
}

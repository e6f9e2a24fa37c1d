package api

import (
	"net/http"
	"strings"

	"github.com/imagecache/imagecache/api/access"
	"github.com/imagecache/imagecache/registry"
)

// Verdict tells whether a caller may do something, and why: the answer of
// GET /api/v1/access.
type Verdict struct {
	Allowed    bool   `json:"allowed"`
	Caller     string `json:"caller"` // as it was asked for
	Verb       string `json:"verb"`
	Repository string `json:"repository,omitempty"` // in full
	Number     int    `json:"rule_number,omitempty"`
	Rule       string `json:"rule,omitempty"` // the first that allows it, as in the settings
	Reason     string `json:"reason"`
}

// mayCaller tells what the rules say to a caller whom the operator describes:
// "user:ann,group:dev". It asks no issuer, and looks no user up.
func (s *Server) mayCaller(w *record, r *http.Request) error {
	query := r.URL.Query()
	caller, err := access.ParseCaller(query.Get("caller"))
	if err != nil {
		return errRequest("caller: " + err.Error())
	}
	verb, err := access.ParseVerb(query.Get("verb"))
	if err != nil {
		return errRequest("verb: " + err.Error())
	}
	repository, err := askedRepository(verb, query.Get("repository"))
	if err != nil {
		return err
	}
	v := Verdict{Caller: query.Get("caller"), Verb: string(verb), Repository: repository}
	s.judge(&v, caller, verb)
	return writeJSON(w, r, v)
}

// askedRepository is the full name of a repository, which may be asked for as a
// reference is written; "" for verbs that have none.
func askedRepository(verb access.Verb, asked string) (string, error) {
	if verb.Everywhere() {
		if asked != "" {
			return "", errRequest(string(verb) + " is about the whole daemon: ask without a repository")
		}
		return "", nil
	}
	if asked == "" {
		return "", errRequest("the parameter repository is missing")
	}
	ref, err := registry.ParseReference(asked)
	if err != nil {
		return "", err
	}
	return ref.Repository.String(), nil
}

func (s *Server) judge(v *Verdict, c access.Caller, verb access.Verb) {
	writes := verb == access.Push || verb == access.Delete
	registry, _, _ := strings.Cut(v.Repository, "/")
	switch {
	case s.gate.Ruled():
		s.judgeByRules(v, c, verb)
	case verb == access.Admin:
		v.Reason = "no rule is in force: administration is for who reaches its socket"
	case writes && !s.push && !s.registry.Through(registry):
		v.Reason = "no rule is in force, and we listen beyond this machine: pushing is closed"
	default:
		v.Allowed, v.Reason = true, "no rule is in force: who reaches us may"
	}
	if v.Allowed && writes && !s.registry.Takes(registry) {
		v.Allowed, v.Reason = false, "the rules would allow it, but nothing is pushed to "+registry+" here: it is no home"
	}
}

func (s *Server) judgeByRules(v *Verdict, c access.Caller, verb access.Verb) {
	number, rule := s.gate.Why(c, verb, v.Repository)
	if number == 0 {
		v.Reason = "no rule allows it"
		return
	}
	v.Allowed, v.Number, v.Rule, v.Reason = true, number, rule.String(), "a rule allows it"
	if c.Known() && !verb.Everywhere() && !s.gate.Names(c, verb, v.Repository) {
		v.Reason = "a rule for anonymous allows it, and by it this caller sees no more than anonymous does"
	}
}

func (s *Server) accessAdmin() map[string]map[string]handler {
	return map[string]map[string]handler{"/api/v1/access": {http.MethodGet: s.mayCaller}}
}

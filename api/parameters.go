package api

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// parameter is one that the query of a request may hold.
type parameter struct {
	name   string
	many   bool // it may be repeated
	isFlag bool // true or false
}

// parameters are all that there are in the administration, by method and path;
// the OpenAPI document describes the same ones.
var parameters = map[string][]parameter{
	"GET /api/v1/access":         {{name: "caller"}, {name: "verb"}, {name: "repository"}},
	"DELETE /api/v1/images":      {{name: "ref"}},
	"GET /api/v1/images/inspect": {{name: "ref"}},
	"GET /api/v1/pins":           {{name: "ref", many: true}, {name: "drift", isFlag: true}},
	"DELETE /api/v1/pins":        {{name: "ref"}},
	"GET /api/v1/pins/export":    {{name: "format"}},
	"GET /api/v1/pins/matches":   {{name: "pattern"}},
	"POST /api/v1/import":        {{name: "name"}, {name: "pin", isFlag: true}},
	"DELETE /api/v1/rootfs":      {{name: "key"}},
	"GET /api/v1/rootfs/mounts":  {{name: "key"}},
}

// asDefined lets a handler answer queries that mean something, so that nothing
// that somebody asks for is silently without effect.
func asDefined(h handler) handler {
	return func(w *record, r *http.Request) error {
		if err := checkQuery(r.URL.RawQuery, parameters[r.Method+" "+r.URL.Path]); err != nil {
			return err
		}
		return h(w, r)
	}
}

func checkQuery(query string, known []parameter) error {
	given, err := url.ParseQuery(query)
	if err != nil {
		return errRequest("the query cannot be read: " + err.Error())
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		i := slices.IndexFunc(known, func(p parameter) bool { return p.name == name })
		switch {
		case i < 0:
			return errRequest(fmt.Sprintf("there is no parameter %q here%s", name, namesOf(known)))
		case len(given[name]) > 1 && !known[i].many:
			return errRequest("the parameter " + name + " is given more than once")
		case known[i].isFlag && given[name][0] != "true" && given[name][0] != "false":
			return errRequest("the parameter " + name + " is true or false")
		}
	}
	return nil
}

func namesOf(known []parameter) string {
	if len(known) == 0 {
		return ", nor any other"
	}
	names := make([]string, len(known))
	for i, p := range known {
		names[i] = p.name
	}
	return ", but " + strings.Join(names, ", ")
}

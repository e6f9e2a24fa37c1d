package api

import (
	_ "embed"
	"net/http"
)

// The description of the administration: written in YAML, and the same in JSON.
// Tests hold both against the handlers and against real answers.
var (
	//go:embed openapi.yaml
	openAPIYAML []byte
	//go:embed openapi.json
	openAPIJSON []byte
)

// openAPIAdmin are the endpoints of the description itself, by path and method.
func (s *Server) openAPIAdmin() map[string]map[string]handler {
	return map[string]map[string]handler{
		"/api/v1/openapi.json": {http.MethodGet: document("application/json", openAPIJSON)},
		"/api/v1/openapi.yaml": {http.MethodGet: document("application/yaml", openAPIYAML)},
	}
}

// document answers with a fixed text. The media types are those of RFC 8259
// and RFC 9512.
func document(mediaType string, content []byte) handler {
	return func(w *record, _ *http.Request) error {
		w.Header().Set("Content-Type", mediaType)
		_, err := w.Write(content)
		return w.sent(err)
	}
}

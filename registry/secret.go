package registry

import (
	"net/http"
	"strings"
)

// leastSecret is how many bytes of a long secret make it one: upstream's words
// are cut, and so may be the secret in them.
const leastSecret = 12

// withoutSecret returns what upstream said in answer to a request, and nothing
// where it repeats the credential that the request came with: what it says
// goes into logs and to callers.
func withoutSecret(said string, asked *http.Request) string {
	_, value, _ := strings.Cut(asked.Header.Get("Authorization"), " ")
	secrets := []string{value}
	if _, password, ok := asked.BasicAuth(); ok {
		secrets = append(secrets, password)
	}
	for _, s := range secrets {
		s = strings.Join(strings.Fields(s), " ") // as plain has done with said
		if s != "" && strings.Contains(said, s[:min(len(s), leastSecret)]) {
			return ""
		}
	}
	return said
}

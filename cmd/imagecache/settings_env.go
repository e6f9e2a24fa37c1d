package main

import (
	"fmt"
	"slices"
	"strings"
)

// Variables that no key of the file stands behind.
const (
	envConfig   = "IMAGECACHE_CONFIG"   // the file of settings
	envUpstream = "IMAGECACHE_UPSTREAM" // NAME=URL,NAME=URL
	envAdmin    = "IMAGECACHE_ADMIN"
)

// readEnvironment lays the IMAGECACHE_… variables over what is there. A variable that means nothing gives a warning, not an error: the
// environment is shared with whoever started us (Kubernetes puts IMAGECACHE_SERVICE_HOST there when a service has our name).
// A variable that is set but empty counts as not set.
func (s *Settings) readEnvironment(environ []string) ([]Warning, error) {
	keys := scalarKeys()
	var warnings []Warning
	for _, pair := range slices.Sorted(slices.Values(environ)) {
		name, value, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, "IMAGECACHE_") || value == "" || name == envConfig || slices.Contains(clientEnv, name) {
			continue
		}
		if name == envMirror {
			if err := s.setMirrorPairs(strings.Split(value, ","), envMirror); err != nil {
				return warnings, err
			}
			continue
		}
		if name == envUpstream {
			for upstream := range strings.SplitSeq(value, ",") {
				if err := s.setUpstreamPair(upstream, envUpstream); err != nil {
					return warnings, err
				}
			}
			continue
		}
		if name == envAdmin && strings.HasPrefix(value, httpsScheme) { // of somebody who administrates another machine from here
			warnings = append(warnings, Warning(fmt.Sprintf("%s=%s is for the commands that ask a daemon; none listens for its own administration there", name, value)))
			continue
		}
		i := slices.IndexFunc(keys, func(k scalarKey) bool { return k.env() == name })
		if i < 0 {
			warnings = append(warnings, unknownVariable(name, keys))
			continue
		}
		if err := s.setScalar(keys[i], value, origin(name)); err != nil {
			return warnings, err
		}
	}
	return warnings, nil
}

func unknownVariable(name string, keys []scalarKey) Warning {
	known := append([]string{envConfig, envUpstream, envMirror}, clientEnv...)
	for _, k := range keys {
		known = append(known, k.env())
	}
	text := fmt.Sprintf("%s is set but means nothing here", name)
	if near, ok := nearest(name, known); ok {
		text += fmt.Sprintf("; did you mean %s?", near)
	}
	return Warning(text)
}

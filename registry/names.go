package registry

import "strings"

// The names that each request holds are read by hand: patterns take ten times
// as long. names_test.go holds each function against its pattern.

// isRepositoryPath reports whether s is a repository's name without its
// registry (distribution-spec, "Pulling Manifests").
func isRepositoryPath(s string) bool {
	return words(s, func(between string) bool {
		return between == "/" || between == "." || between == "_" || between == "__" || dashes(between)
	})
}

// isPlainHost reports whether s is the name of a host with or without a port, in
// lower case and of letters, digits, dots and dashes, as nearly all are.
func isPlainHost(s string) bool {
	host, port, hasPort := strings.Cut(s, ":")
	if hasPort && (port == "" || strings.Trim(port, "0123456789") != "") {
		return false
	}
	return words(host, func(between string) bool { return between == "." || dashes(between) })
}

// isTagName reports whether s is a tag (distribution-spec, "Pulling Manifests").
func isTagName(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !isWordByte(c) && (c < 'A' || 'Z' < c) && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

// words reports whether s is made of words of lower case letters and digits,
// each parted from the next by what parts says.
func words(s string, parts func(between string) bool) bool {
	end := 0 // of the last word
	for i := range len(s) {
		if !isWordByte(s[i]) {
			continue
		}
		if end < i && (end == 0 || !parts(s[end:i])) {
			return false
		}
		end = i + 1
	}
	return s != "" && end == len(s)
}

func isWordByte(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

func dashes(s string) bool { return strings.Trim(s, "-") == "" }

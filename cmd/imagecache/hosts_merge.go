package main

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// errCannotMerge says that a hosts.toml is written in a way that only a person can add to: hosts that are not [host."…"] tables have no
// order for containerd, and one host under two spellings leaves open which is meant.
var errCannotMerge = errors.New("its hosts are written in a way that cannot be added to by machine: each wants one [host.\"…\"] table")

// expression is one key or table header of a document, by lines counted from 0.
type expression struct {
	path  []string
	table bool
	array bool // a table that is one of several: [[path]]
	line  int
}

// mergeHosts puts our host before the others of a hosts.toml and leaves everything else as it stands, to the byte. A table for our host that
// is there already is moved to the front and keeps what else it says. When it says all of it already, original comes back.
func mergeHosts(original []byte, m hostsMirror) ([]byte, error) {
	before := map[string]any{}
	if err := toml.Unmarshal(original, &before); err != nil {
		return nil, tomlError("hosts.toml", err)
	}
	expressions, err := outline(original)
	if err != nil {
		return nil, err
	}
	if spellings(before, m.url) > 1 {
		return nil, errCannotMerge
	}
	if isFirst(expressions, m.url) && saysOurs(before, m) {
		return original, nil
	}
	lines := splitLines(original)
	own, rest := cutOwn(lines, expressions, m)
	merged := insertFirst(rest, own)
	return merged, verifyMerge(before, merged, m)
}

// outline lists keys and table headers with their lines.
func outline(content []byte) ([]expression, error) {
	p := unstable.Parser{}
	p.Reset(content)
	var list []expression
	for p.NextExpression() {
		node := p.Expression()
		if node.Kind != unstable.Table && node.Kind != unstable.ArrayTable && node.Kind != unstable.KeyValue {
			continue
		}
		path, line := keyOf(&p, node)
		list = append(list, expression{path, node.Kind != unstable.KeyValue, node.Kind == unstable.ArrayTable, line - 1})
	}
	return list, p.Error()
}

// isHost tells whether a table header belongs to a host, or to one of its own tables (host."x".header).
func (e expression) isHost() bool { return e.table && len(e.path) >= 2 && e.path[0] == "host" }

func (e expression) isHostOf(url string) bool {
	return e.isHost() && strings.TrimRight(e.path[1], "/") == strings.TrimRight(url, "/")
}

// isFirst tells whether containerd tries url before every other host: it goes by the order of the table headers.
func isFirst(expressions []expression, url string) bool {
	i := slices.IndexFunc(expressions, expression.isHost)
	return i >= 0 && expressions[i].isHostOf(url)
}

// spellings counts the keys that mean a host, which may end in a slash or not.
func spellings(document map[string]any, url string) int {
	n := 0
	for key := range hostTables(document) {
		if strings.TrimRight(key, "/") == strings.TrimRight(url, "/") {
			n++
		}
	}
	return n
}

// saysOurs tells whether our host's table says what we would.
func saysOurs(document map[string]any, m hostsMirror) bool {
	hosts, _ := document["host"].(map[string]any)
	for url, host := range hosts {
		table, isTable := host.(map[string]any)
		if !isTable || strings.TrimRight(url, "/") != strings.TrimRight(m.url, "/") {
			continue
		}
		return reflect.DeepEqual(table["capabilities"], []any{"pull", "resolve"}) && table["dial_timeout"] == m.dialTimeout.String()
	}
	return false
}

// splitLines keeps each line's end with it.
func splitLines(content []byte) [][]byte {
	lines := bytes.SplitAfter(content, []byte("\n"))
	if n := len(lines); n > 0 && len(lines[n-1]) == 0 {
		lines = lines[:n-1]
	}
	return lines
}

// cutOwn takes our host's tables out of the lines and gives them back with our two keys set; where there is none it makes one.
func cutOwn(lines [][]byte, expressions []expression, m hostsMirror) (own string, rest [][]byte) {
	var kept strings.Builder
	dropped := make([]bool, len(lines))
	headerDone := false
	for i, e := range expressions {
		if !e.isHostOf(m.url) {
			continue
		}
		start, end := attached(lines, e.line), len(lines)
		if next := slices.IndexFunc(expressions[i+1:], func(e expression) bool { return e.table }); next >= 0 {
			end = attached(lines, expressions[i+1+next].line)
		}
		stale := map[int]bool{}
		if len(e.path) == 2 {
			stale = ourKeys(lines, expressions[i+1:], end)
		}
		for at := start; at < end; at++ {
			dropped[at] = true
			if stale[at] {
				continue
			}
			kept.WriteString(ended(lines[at]))
			if at == e.line && len(e.path) == 2 {
				kept.WriteString(m.keys())
				headerDone = true
			}
		}
	}
	for at, line := range lines {
		if !dropped[at] {
			rest = append(rest, line)
		}
	}
	if !headerDone {
		return m.table() + kept.String(), rest
	}
	return kept.String(), rest
}

// attached is the first line of the comment that stands directly above a line and so belongs to it.
func attached(lines [][]byte, line int) int {
	for line > 0 && bytes.HasPrefix(bytes.TrimSpace(lines[line-1]), []byte("#")) {
		line--
	}
	return line
}

// ourKeys are the lines that hold capabilities and dial_timeout of the table that begins before the given expressions.
func ourKeys(lines [][]byte, following []expression, end int) map[int]bool {
	found := map[int]bool{}
	for i, e := range following {
		if e.table {
			break
		}
		if len(e.path) != 1 || (e.path[0] != "capabilities" && e.path[0] != "dial_timeout") {
			continue
		}
		last := end
		if i+1 < len(following) {
			last = min(end, following[i+1].line)
		}
		// A value may take several lines; what is empty or a comment after its last one is not part of it.
		for last > e.line+1 && isBlankOrComment(lines[last-1]) {
			last--
		}
		for at := e.line; at < last; at++ {
			found[at] = true
		}
	}
	return found
}

func isBlankOrComment(line []byte) bool {
	trimmed := bytes.TrimSpace(line)
	return len(trimmed) == 0 || trimmed[0] == '#'
}

// ended is a line with its end, which the last one of a file may lack.
func ended(line []byte) string {
	if bytes.HasSuffix(line, []byte("\n")) {
		return string(line)
	}
	return string(line) + "\n"
}

// insertFirst puts a table before the first one there is, or at the end.
func insertFirst(lines [][]byte, own string) []byte {
	rest := bytes.Join(lines, nil)
	expressions, err := outline(rest)
	at := len(lines)
	if err == nil {
		if i := slices.IndexFunc(expressions, func(e expression) bool { return e.table }); i >= 0 {
			at = attached(lines, expressions[i].line)
		}
	}
	var merged bytes.Buffer
	for _, line := range lines[:at] {
		merged.WriteString(ended(line))
	}
	if at > 0 && !isBlankOrComment(lines[at-1]) || at > 0 && at == len(lines) {
		merged.WriteString("\n")
	}
	merged.WriteString(own)
	if at < len(lines) && !strings.HasSuffix(own, "\n\n") {
		merged.WriteString("\n")
	}
	for _, line := range lines[at:] {
		merged.Write(line)
	}
	return merged.Bytes()
}

// verifyMerge reads the result again: ours first, and everything else as it was.
func verifyMerge(before map[string]any, merged []byte, m hostsMirror) error {
	after := map[string]any{}
	if err := toml.Unmarshal(merged, &after); err != nil {
		return fmt.Errorf("%w (%w)", errCannotMerge, err)
	}
	expressions, err := outline(merged)
	if err != nil {
		return err
	}
	hosts := len(hostTables(before))
	if spellings(after, m.url) != 1 || !isFirst(expressions, m.url) || !saysOurs(after, m) || hosts > 0 && countHosts(expressions) < len(hostTables(after)) {
		return errCannotMerge
	}
	if !reflect.DeepEqual(withoutOurs(before, m), withoutOurs(after, m)) {
		return errCannotMerge
	}
	return nil
}

func hostTables(document map[string]any) map[string]any {
	hosts, _ := document["host"].(map[string]any)
	return hosts
}

// countHosts counts the hosts that containerd sees: those with a table header.
func countHosts(expressions []expression) int {
	seen := map[string]bool{}
	for _, e := range expressions {
		if e.isHost() {
			seen[e.path[1]] = true
		}
	}
	return len(seen)
}

// withoutOurs is a document without what we set: our host's capabilities and dial_timeout, and the tables that are empty then.
func withoutOurs(document map[string]any, m hostsMirror) map[string]any {
	rest := map[string]any{}
	for key, value := range document {
		if key != "host" {
			rest[key] = value
		}
	}
	others := map[string]any{}
	for url, host := range hostTables(document) {
		table, isTable := host.(map[string]any)
		if !isTable || strings.TrimRight(url, "/") != strings.TrimRight(m.url, "/") {
			others[url] = host
			continue
		}
		for key, value := range table {
			if key != "capabilities" && key != "dial_timeout" {
				others[url+" "+key] = value
			}
		}
	}
	if len(others) > 0 {
		rest["host"] = others
	}
	return rest
}

package main

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// tomlChange is one thing that a TOML document is to say: keys of a table, or one more table of an array.
type tomlChange struct {
	table  []string
	keys   [][2]string // names and texts, in their order
	append bool        // one more [[table]], at the end of the document
}

// errCannotEdit says that a document is written in a way that only a person can add to, such as a table within a line.
var errCannotEdit = errors.New("it is written in a way that cannot be added to by machine")

// editTOML makes changes and leaves everything else as it stands, to the byte. The result is read again: it says what it said before, and what
// was to be changed. Error: errCannotEdit, or that the document is broken.
func editTOML(path string, original []byte, changes []tomlChange) ([]byte, error) {
	expected := map[string]any{}
	if err := toml.Unmarshal(original, &expected); err != nil {
		return nil, tomlError(path, err)
	}
	edited := original
	for _, c := range changes {
		if !c.apply(expected) {
			return nil, fmt.Errorf("%s: %w", path, errCannotEdit)
		}
		var err error
		if edited, err = c.write(edited); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	got := map[string]any{}
	if err := toml.Unmarshal(edited, &got); err != nil || !reflect.DeepEqual(got, expected) {
		return nil, fmt.Errorf("%s: %w", path, errCannotEdit)
	}
	return edited, nil
}

// apply makes the change in what the document says; false where something else stands in the way.
func (c tomlChange) apply(document map[string]any) bool {
	parent, last := document, c.table[len(c.table)-1]
	for _, part := range c.table[:len(c.table)-1] {
		if parent[part] == nil {
			parent[part] = map[string]any{}
		}
		next, isTable := parent[part].(map[string]any)
		if !isTable {
			return false
		}
		parent = next
	}
	if c.append {
		list, isList := parent[last].([]any)
		if !isList && parent[last] != nil {
			return false
		}
		parent[last] = append(slices.Clone(list), any(c.values()))
		return true
	}
	if parent[last] == nil {
		parent[last] = map[string]any{}
	}
	table, isTable := parent[last].(map[string]any)
	if !isTable {
		return false
	}
	for name, value := range c.values() {
		table[name] = value
	}
	return true
}

func (c tomlChange) values() map[string]any {
	values := map[string]any{}
	for _, key := range c.keys {
		values[key[0]] = key[1]
	}
	return values
}

// write makes the change in the text.
func (c tomlChange) write(original []byte) ([]byte, error) {
	expressions, err := outline(original)
	if err != nil {
		return nil, err
	}
	lines := splitLines(original)
	header := -1
	if !c.append {
		header = slices.IndexFunc(expressions, func(e expression) bool { return e.table && !e.array && slices.Equal(e.path, c.table) })
	}
	if header < 0 {
		return []byte(c.appended(lines)), nil
	}
	return []byte(c.within(lines, expressions, header)), nil
}

// appended is the text with the table at its end.
func (c tomlChange) appended(lines [][]byte) string {
	var text strings.Builder
	for _, line := range lines {
		text.WriteString(ended(line))
	}
	if n := len(lines); n > 0 && strings.TrimSpace(string(lines[n-1])) != "" {
		text.WriteString("\n")
	}
	open, shut := "[", "]"
	if c.append {
		open, shut = "[[", "]]"
	}
	fmt.Fprintf(&text, "%s%s%s\n", open, tomlPath(c.table), shut)
	for _, key := range c.keys {
		fmt.Fprintf(&text, "  %s = %q\n", key[0], key[1])
	}
	return text.String()
}

// within is the text with keys set in a table that is there: first those that it lacks, and each of the others where it stands.
func (c tomlChange) within(lines [][]byte, expressions []expression, header int) string {
	replaced := map[int]string{} // by the first line of a key, what stands there then
	dropped := map[int]bool{}
	indent := leading(lines[expressions[header].line]) + "  "
	fresh := ""
	for _, key := range c.keys {
		first, end, found := keyLines(lines, expressions, header, key[0])
		if !found {
			fresh += fmt.Sprintf("%s%s = %q\n", indent, key[0], key[1])
			continue
		}
		for at := first; at < end; at++ {
			dropped[at] = true
		}
		replaced[first] = fmt.Sprintf("%s%s = %q%s\n", leading(lines[first]), key[0], key[1], remark(string(lines[end-1])))
	}
	var text strings.Builder
	for at, line := range lines {
		if !dropped[at] {
			text.WriteString(ended(line))
		}
		text.WriteString(replaced[at])
		if at == expressions[header].line {
			text.WriteString(fresh)
		}
	}
	return text.String()
}

// keyLines are the lines that a key of a table and its value take.
func keyLines(lines [][]byte, expressions []expression, header int, name string) (first, end int, found bool) {
	for i, e := range expressions[header+1:] {
		if e.table {
			break
		}
		if len(e.path) != 1 || e.path[0] != name {
			continue
		}
		end = len(lines)
		if next := header + 1 + i + 1; next < len(expressions) {
			end = expressions[next].line
		}
		for end > e.line+1 && isBlankOrComment(lines[end-1]) {
			end--
		}
		return e.line, end, true
	}
	return 0, 0, false
}

// remark is the comment at the end of the last line of a key, with the space before it. A # within a string begins none.
func remark(line string) string {
	quote := byte(0)
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case quote == '"' && c == '\\':
			i++ // what it escapes ends no string
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '#':
			before := strings.TrimRight(line[:i], " \t")
			return strings.TrimRight(line[len(before):], "\r\n")
		}
	}
	return ""
}

// leading is the space at the beginning of a line.
func leading(line []byte) string {
	text := string(line)
	return text[:len(text)-len(strings.TrimLeft(text, " \t"))]
}

// tomlPath writes the name of a table, its parts quoted where they have to be.
func tomlPath(parts []string) string {
	written := make([]string, len(parts))
	for i, part := range parts {
		written[i] = part
		if part == "" || strings.ContainsFunc(part, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-')
		}) {
			written[i] = fmt.Sprintf("%q", part)
		}
	}
	return strings.Join(written, ".")
}

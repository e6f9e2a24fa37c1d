package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// limitConfigFile bounds a file of settings: a thousand upstreams fit, and a wrong --config does not fill the memory.
const limitConfigFile = 1 << 20 // bytes

// leaf is one key of a TOML document, or the header of a table, with the line it stands on.
type leaf struct {
	path  []string
	table bool
	line  int
}

// readFile lays a file of settings over what is there. Errors name the file and the line.
func (s *Settings) readFile(path string) error {
	content, err := readLimited(path, limitConfigFile)
	if err != nil {
		return fmt.Errorf("reading settings: %w", err)
	}
	values := map[string]any{}
	if err := toml.Unmarshal(content, &values); err != nil {
		return tomlError(path, err)
	}
	leaves, err := tomlLeaves(content)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, l := range leaves {
		if err := s.setLeaf(path, l, values); err != nil {
			return err
		}
	}
	return nil
}

// readLimited reads a file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("%s is larger than %s", path, size(limit))
	}
	return content, nil
}

// tomlError puts the file and the line before what the parser says.
func tomlError(path string, err error) error {
	var syntax *toml.DecodeError
	if errors.As(err, &syntax) {
		line, _ := syntax.Position()
		return fmt.Errorf("%s:%d: %s", path, line, strings.TrimPrefix(syntax.Error(), "toml: "))
	}
	return fmt.Errorf("%s: %w", path, err)
}

// setLeaf sets what one key of the file says, or refuses it.
func (s *Settings) setLeaf(file string, l leaf, values map[string]any) error {
	from := origin(fmt.Sprintf("%s:%d", file, l.line))
	if l.table {
		return checkTable(l.path, from)
	}
	if l.path[0] == "upstreams" {
		return s.setUpstreamLeaf(file, l.path, valueAt(values, l.path), from)
	}
	keys := scalarKeys()
	name := strings.Join(l.path, ".")
	i := slices.IndexFunc(keys, func(k scalarKey) bool { return k.name == name })
	if i < 0 {
		return unknownKey(from, l.path, keyNames(keys, l.path))
	}
	text, isText := valueAt(values, l.path).(string)
	if n, isNumber := valueAt(values, l.path).(int64); isNumber && n == 0 {
		text, isText = "0", true // nothing needs no unit
	}
	if !isText {
		return fmt.Errorf("%s: %s: want a text in quotes", from, name)
	}
	if (l.path[0] == "root" || l.path[0] == "lockfile") && text != "" && !filepath.IsAbs(text) {
		text = filepath.Join(filepath.Dir(file), text)
	}
	return s.setScalar(keys[i], text, from)
}

// setScalar sets one value and remembers where it came from.
func (s *Settings) setScalar(key scalarKey, value string, from origin) error {
	if err := key.set(s, value); err != nil {
		return fmt.Errorf("%s: %s: %w", from, key.name, err)
	}
	s.origins[key.name] = from
	return nil
}

// setUpstreamLeaf sets one key below [upstreams."name"].
func (s *Settings) setUpstreamLeaf(file string, path []string, value any, from origin) error {
	if len(path) < 3 {
		return fmt.Errorf("%s: %s: want a table, as in [upstreams.\"docker.io\"]", from, dotted(path))
	}
	name, key := path[1], path[2]
	if key == "password" {
		return fmt.Errorf("%s: a password does not belong in the settings: put it into a file that only imagecache can read, and name that with password_file", from)
	}
	keys := upstreamKeys()
	i := slices.IndexFunc(keys, func(k upstreamKey) bool { return k.name == key })
	if i < 0 || len(path) > 3 {
		names := make([]string, len(keys))
		for i, k := range keys {
			names[i] = k.name
		}
		return unknownKey(from, path, names)
	}
	texts, err := textsOf(value, keys[i].list)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", from, dotted(path), err)
	}
	return s.setUpstream(name, keys[i], filepath.Dir(file), texts, from)
}

// textsOf takes a string, or a list of them where the key is one.
func textsOf(value any, list bool) ([]string, error) {
	if !list {
		text, isText := value.(string)
		if !isText {
			return nil, errors.New("want a text in quotes")
		}
		return []string{text}, nil
	}
	elements, isList := value.([]any)
	if !isList {
		return nil, errors.New(`want a list of texts, as in ["linux/amd64"]`)
	}
	texts := make([]string, 0, len(elements))
	for _, element := range elements {
		text, isText := element.(string)
		if !isText {
			return nil, errors.New(`want a list of texts, as in ["linux/amd64"]`)
		}
		texts = append(texts, text)
	}
	return texts, nil
}

// checkTable refuses the header of a table that means nothing, also when it is empty.
func checkTable(path []string, from origin) error {
	if path[0] == "upstreams" && len(path) <= 2 || path[0] == storeTable && len(path) == 1 {
		return nil
	}
	return unknownKey(from, path, []string{"upstreams", storeTable})
}

// unknownKey says which key was not understood, and which one is near.
func unknownKey(from origin, path, known []string) error {
	text := fmt.Sprintf("%s: unknown key %s", from, dotted(path))
	if near, ok := nearest(path[len(path)-1], known); ok {
		text += fmt.Sprintf("; did you mean %s?", near)
	} else if near, ok := nearest(path[0], known); ok {
		text += fmt.Sprintf("; did you mean %s?", near)
	}
	return errors.New(text)
}

// keyNames are the words that could stand where path has an unknown one.
func keyNames(keys []scalarKey, path []string) []string {
	names := []string{"upstreams", storeTable}
	for _, k := range keys {
		table, name, inTable := strings.Cut(k.name, ".")
		switch {
		case !inTable:
			names = append(names, k.name)
		case table == path[0]:
			names = append(names, name)
		}
	}
	return names
}

// dotted writes a key as TOML does.
func dotted(path []string) string {
	parts := make([]string, len(path))
	for i, part := range path {
		parts[i] = part
		if part == "" || strings.ContainsFunc(part, func(r rune) bool { return !isBareKey(r) }) {
			parts[i] = fmt.Sprintf("%q", part)
		}
	}
	return strings.Join(parts, ".")
}

func isBareKey(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-'
}

// valueAt follows a path into a decoded document.
func valueAt(values map[string]any, path []string) any {
	var here any = values
	for _, part := range path {
		m, isTable := here.(map[string]any)
		if !isTable {
			return nil
		}
		here = m[part]
	}
	return here
}

// tomlLeaves lists the keys and table headers of a document with their lines; decoding alone would lose the lines.
func tomlLeaves(content []byte) ([]leaf, error) {
	p := unstable.Parser{}
	p.Reset(content)
	var leaves []leaf
	var table []string
	for p.NextExpression() {
		node := p.Expression()
		switch node.Kind {
		case unstable.Table, unstable.ArrayTable:
			var line int
			table, line = keyOf(&p, node)
			leaves = append(leaves, leaf{path: slices.Clone(table), table: true, line: line})
		case unstable.KeyValue:
			leaves = appendLeaves(leaves, &p, node, table)
		}
	}
	return leaves, p.Error()
}

// appendLeaves adds a key, or the keys of the inline table that is its value.
func appendLeaves(leaves []leaf, p *unstable.Parser, node *unstable.Node, table []string) []leaf {
	key, line := keyOf(p, node)
	path := append(slices.Clone(table), key...)
	value := node.Value()
	if value.Kind != unstable.InlineTable {
		return append(leaves, leaf{path: path, line: line})
	}
	leaves = append(leaves, leaf{path: path, table: true, line: line})
	for it := value.Children(); it.Next(); {
		if it.Node().Kind == unstable.KeyValue {
			leaves = appendLeaves(leaves, p, it.Node(), path)
		}
	}
	return leaves
}

// keyOf is the dotted key of a node and its line.
func keyOf(p *unstable.Parser, node *unstable.Node) (key []string, line int) {
	for it := node.Key(); it.Next(); {
		if line == 0 {
			line = p.Shape(it.Node().Raw).Start.Line
		}
		key = append(key, string(it.Node().Data))
	}
	return key, line
}

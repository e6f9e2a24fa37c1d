package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/imagecache/imagecache/registry"
)

// limitConfigFile bounds a file of settings: a thousand upstreams fit, and a wrong --config does not fill the memory.
const limitConfigFile = 1 << 20 // bytes

// scalarTables are the tables of which each key holds one value.
var scalarTables = []string{storeTable, snapshotterTable, tlsTable, accessTable}

// leaf is one key of a TOML document, or the header of a table, with the line it stands on.
type leaf struct {
	path  []string
	table bool
	line  int
	at    int // of a key below [[upstreams."name".accounts]]: which of them, from 0
}

// inAccounts reports whether a key is below [[upstreams."name".accounts]], or is its header.
func (l leaf) inAccounts() bool {
	return len(l.path) >= 3 && l.path[0] == "upstreams" && l.path[2] == "accounts"
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
		return s.setTable(l, from)
	}
	if l.inAccounts() && len(l.path) > 3 {
		return s.setAccountLeaf(file, l.path, l.at, valueInAccount(values, l), from)
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
	if slices.Contains(listKeys, name) {
		texts, err := textsOf(valueAt(values, l.path), true)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", from, name, err)
		}
		return s.setScalar(keys[i], strings.Join(texts, listMark), from)
	}
	if n, isNumber := valueAt(values, l.path).(int64); isNumber && n == 0 {
		text, isText = "0", true // nothing needs no unit
	}
	if n, isNumber := valueAt(values, l.path).(int64); isNumber && slices.Contains(countKeys, name) {
		text, isText = strconv.FormatInt(n, 10), true
	}
	if !isText {
		return fmt.Errorf("%s: %s: want a text in quotes", from, name)
	}
	if (l.path[0] == "root" || l.path[0] == "lockfile" || strings.HasSuffix(name, "_file")) && text != "" && !filepath.IsAbs(text) {
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
	if key == "password" || key == "client_secret" {
		return noSecretHere(key, from)
	}
	if key == "accounts" {
		return fmt.Errorf("%s: %s: want tables, as in [[upstreams.%q.accounts]]", from, dotted(path), name)
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

func noSecretHere(key string, from origin) error {
	return fmt.Errorf("%s: a %s does not belong in the settings: put it into a file that only imagecache can read, and name that with %s_file",
		from, key, key)
}

// valueInAccount is the value of a key of one account.
func valueInAccount(values map[string]any, l leaf) any {
	list, _ := valueAt(values, l.path[:3]).([]any)
	if l.at >= len(list) {
		return nil
	}
	account, _ := list[l.at].(map[string]any)
	return valueAt(account, l.path[3:])
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

// setTable makes a registry of an empty table: without a url it is a home.
func (s *Settings) setTable(l leaf, from origin) error {
	if err := checkTable(l, from); err != nil || len(l.path) != 2 || l.path[0] != "upstreams" {
		return err
	}
	defer delete(s.origins, upstreamKeyName(l.path[1], "")) // a table is no value
	return s.setUpstream(l.path[1], upstreamKey{set: func(*registry.UpstreamOptions, string, []string) error { return nil }}, "", nil, from)
}

// checkTable refuses the header of a table that means nothing, also when it is empty.
func checkTable(l leaf, from origin) error {
	path := l.path
	if l.inAccounts() && len(path) == 3 {
		return nil // whether it is a list of tables its keys will tell
	}
	if path[0] == "upstreams" && len(path) <= 2 || slices.Contains(scalarTables, path[0]) && len(path) == 1 {
		return nil
	}
	return unknownKey(from, path, append([]string{"upstreams"}, scalarTables...))
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
	names := append([]string{"upstreams"}, scalarTables...)
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
	return numberAccounts(leaves), p.Error()
}

// numberAccounts tells the keys of the accounts of an upstream apart, which have the same path.
func numberAccounts(leaves []leaf) []leaf {
	count := map[string]int{}
	for i, l := range leaves {
		if !l.inAccounts() {
			continue
		}
		if l.table && len(l.path) == 3 {
			count[l.path[1]]++
		}
		leaves[i].at = max(count[l.path[1]]-1, 0)
	}
	return leaves
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

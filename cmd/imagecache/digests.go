package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/imagecache/imagecache/registry"
)

// limitDigests bounds a list of digests, in bytes: what "imagecache inspect -o json" tells of a few hundred images.
const limitDigests = 64 << 20

// readDigests reads a list of blobs: lines of a digest and perhaps its size, or JSON of any form, such as what match and inspect print.
// Errors name the place.
func readDigests(name string, content []byte) ([]registry.Sought, error) {
	trimmed := bytes.TrimSpace(content)
	if len(trimmed) > 0 && (trimmed[0] == '[' || trimmed[0] == '{') {
		return digestsInJSON(name, content)
	}
	var all []registry.Sought
	lines := bufio.NewScanner(bytes.NewReader(content))
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(text)
		if len(words) == 0 || words[0] == "DIGEST" { // the head of our own table
			continue
		}
		sought, err := digestLine(words)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, n, err)
		}
		all = append(all, sought)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return all, nil
}

// digestLine reads "sha256:… 1234".
func digestLine(words []string) (registry.Sought, error) {
	d, err := registry.ParseDigest(words[0])
	if err != nil {
		return registry.Sought{}, fmt.Errorf("%q is not a digest: want sha256:… or sha512:…", words[0])
	}
	sought := registry.Sought{Digest: d}
	if len(words) == 1 {
		return sought, nil
	}
	size, err := strconv.ParseInt(words[1], 10, 64)
	if err != nil || size < 0 || len(words) > 2 {
		return sought, fmt.Errorf("%q is not the size of %s: want a number of bytes", strings.Join(words[1:], " "), d)
	}
	sought.Size = size
	return sought, nil
}

// digestsInJSON takes every digest that stands in some documents.
func digestsInJSON(name string, content []byte) (all []registry.Sought, err error) {
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber()
	for {
		var v any
		err := decoder.Decode(&v)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("%s: it ends in the middle of its JSON", name)
		}
		if wrong := new(json.SyntaxError); errors.As(err, &wrong) {
			return nil, fmt.Errorf("%s:%d: %w", name, 1+bytes.Count(content[:min(int(wrong.Offset), len(content))], []byte("\n")), err)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, digestsIn(v)...)
	}
}

// digestsIn walks over a document. The size beside a digest is that of its blob, unless a reference stands there too: then it is an image's.
func digestsIn(v any) (all []registry.Sought) {
	switch v := v.(type) {
	case string:
		if d, err := registry.ParseDigest(v); err == nil {
			all = append(all, registry.Sought{Digest: d})
		}
	case []any:
		for _, child := range v {
			all = append(all, digestsIn(child)...)
		}
	case map[string]any:
		text, _ := v["digest"].(string)
		if d, err := registry.ParseDigest(text); err == nil {
			sought := registry.Sought{Digest: d}
			if size, ok := v["size"].(json.Number); ok && v["reference"] == nil {
				n, _ := size.Int64()
				sought.Size = max(n, 0) // 0, which stands for any, where it is none
			}
			all = append(all, sought)
		}
		for _, child := range v {
			switch child.(type) {
			case []any, map[string]any: // a text by another key is not a blob that somebody has
				all = append(all, digestsIn(child)...)
			}
		}
	}
	return all
}

// unique leaves each blob once. One that stands there with several sizes may be here with any of them.
func unique(all []registry.Sought) []registry.Sought {
	seen := map[registry.Sought]bool{}
	return slices.DeleteFunc(all, func(s registry.Sought) bool {
		again := seen[s]
		seen[s] = true
		return again
	})
}

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imagecache/imagecache/registry"
)

// limitReferences bounds a list of references, in bytes.
const limitReferences = 16 << 20

func addFileFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "file", "f", "", "`FILE` of references, one a line; - is standard input")
}

// references are those of the arguments and of a file; - in either place is standard input. At least one is wanted.
func (c *cli) references(cmd *cobra.Command, args []string, file string) ([]string, error) {
	refs, err := c.optionalReferences(cmd, args, file)
	if err == nil && len(refs) == 0 {
		err = minArgs(1, "a reference, as in docker.io/library/nginx:1.27")(cmd, nil)
	}
	return refs, err
}

func (c *cli) optionalReferences(cmd *cobra.Command, args []string, file string) (refs []string, err error) {
	for _, arg := range args {
		if arg == "-" {
			file, err = oneInput(cmd, file)
			if err != nil {
				return nil, err
			}
			continue
		}
		if err := referenceArgs(cmd, []string{arg}); err != nil {
			return nil, err
		}
		refs = append(refs, arg)
	}
	if file == "" {
		return refs, nil
	}
	listed, err := c.referencesIn(cmd, file)
	return append(refs, listed...), err
}

// oneInput refuses standard input beside a file, or twice.
func oneInput(cmd *cobra.Command, file string) (string, error) {
	if file != "" {
		return "", wrongUse(cmd, "references come from one file or from standard input, not from both")
	}
	return "-", nil
}

// referencesIn reads a list of references. What stands after "#" is a comment.
func (c *cli) referencesIn(cmd *cobra.Command, name string) (refs []string, err error) {
	content, name, err := c.readInput(name, limitReferences)
	if err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(bytes.NewReader(content))
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		if _, err := registry.ParseReference(text); err != nil {
			return nil, wrongUse(cmd, "%s:%d: %q is not a reference: %s", name, n, text, rootCause(err))
		}
		refs = append(refs, text)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return refs, nil
}

// readInput reads a file, or standard input for "-", and tells how to call it.
func (c *cli) readInput(name string, limit int64) ([]byte, string, error) {
	if name != "-" {
		content, err := readLimited(name, limit)
		return content, name, err
	}
	content, err := io.ReadAll(io.LimitReader(c.in, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = fmt.Errorf("standard input is longer than %s", size(limit))
	}
	return content, "standard input", err
}

package main

import (
	"fmt"
	"slices"
	"strings"
)

// differenceContext is how many unchanged lines stand around each change.
const differenceContext = 3

// edit is one line of a difference: ' ' stays, '-' goes, '+' comes.
type edit struct {
	sign byte
	text string
}

// difference shows what stood in a file and what will, in the unified form. "" when nothing changes; a missing text is nil.
func difference(path string, before, after []byte) string {
	edits := lineEdits(textLines(before), textLines(after))
	near := nearChanges(edits)
	if !slices.Contains(near, true) {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "--- %s\n+++ %s\n", sideName(path, before), sideName(path, after))
	for i, e := range edits {
		if !near[i] {
			continue
		}
		if i == 0 || !near[i-1] {
			b.WriteString("@@\n")
		}
		text := strings.ReplaceAll(strings.TrimSuffix(e.text, "\r"), "\t", "    ")
		fmt.Fprintf(&b, "%c%s\n", e.sign, printable(text))
	}
	return b.String()
}

// nearChanges marks the lines to show: those that change, and some around them.
func nearChanges(edits []edit) []bool {
	near := make([]bool, len(edits))
	for i, e := range edits {
		if e.sign == ' ' {
			continue
		}
		for at := max(0, i-differenceContext); at <= min(len(edits)-1, i+differenceContext); at++ {
			near[at] = true
		}
	}
	return near
}

func sideName(path string, content []byte) string {
	if content == nil {
		return "/dev/null"
	}
	return path
}

func textLines(content []byte) []string {
	if len(content) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")
}

// lineEdits finds the shortest way from a to b by their longest common subsequence. Files of settings are small: time and memory
// grow with the product of the lines that differ.
func lineEdits(a, b []string) []edit {
	var edits, tail []edit
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		edits = append(edits, edit{' ', a[0]})
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		tail = append([]edit{{' ', a[len(a)-1]}}, tail...)
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	common := commonLengths(a, b)
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			edits = append(edits, edit{' ', a[i]})
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			edits = append(edits, edit{'-', a[i]})
			i++
		default:
			edits = append(edits, edit{'+', b[j]})
			j++
		}
	}
	return append(edits, tail...)
}

// commonLengths[i][j] is the length of the longest common subsequence of a[i:] and b[j:].
func commonLengths(a, b []string) [][]int {
	lengths := make([][]int, len(a)+1)
	for i := range lengths {
		lengths[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				lengths[i][j] = lengths[i+1][j+1] + 1
				continue
			}
			lengths[i][j] = max(lengths[i+1][j], lengths[i][j+1])
		}
	}
	return lengths
}

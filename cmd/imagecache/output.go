package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
)

// outputForm is the value of -o: how results are written to standard output.
type outputForm string

const (
	formTable outputForm = "table"
	formJSON  outputForm = "json"
)

func (f *outputForm) String() string { return string(*f) }
func (f *outputForm) Type() string   { return "FORM" }

// Set takes "table" or "json".
func (f *outputForm) Set(value string) error {
	switch outputForm(value) {
	case formTable, formJSON:
		*f = outputForm(value)
		return nil
	}
	return fmt.Errorf("want table or json")
}

// addOutputFlag gives a command its -o.
func addOutputFlag(cmd *cobra.Command, form *outputForm) {
	*form = formTable
	cmd.Flags().VarP(form, "output", "o", "how to print: table or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

// printJSON writes one indented document.
func printJSON(w io.Writer, v any) error {
	content, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	return printRawJSON(w, content)
}

// printRawJSON indents a document as the daemon sent it, so that what a newer daemon adds is not lost.
func printRawJSON(w io.Writer, content []byte) error {
	var indented bytes.Buffer
	if err := json.Indent(&indented, bytes.TrimSpace(content), "", "  "); err != nil {
		return fmt.Errorf("the daemon's answer is not JSON: %w", err)
	}
	indented.WriteByte('\n')
	_, err := indented.WriteTo(w)
	return err
}

// table writes rows under a header, its columns aligned.
type table struct {
	tw *tabwriter.Writer
}

func newTable(w io.Writer, columns ...string) *table {
	t := &table{tw: tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)}
	t.row(columns...)
	return t
}

// row adds one row. What came from outside may hold control characters: they would draw on the terminal, so they are shown quoted.
func (t *table) row(cells ...string) {
	for i, cell := range cells {
		if cell == "" {
			cell = "-"
		}
		cells[i] = printable(cell)
	}
	fmt.Fprintln(t.tw, strings.TrimRight(strings.Join(cells, "\t"), "\t"))
}

func (t *table) flush() error { return t.tw.Flush() }

// printable replaces control characters by their escapes.
func printable(s string) string {
	return escaped(s, isControl, `\x%02x`)
}

// escaped writes some characters in another way.
func escaped(s string, some func(rune) bool, format string) string {
	if !strings.ContainsFunc(s, some) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if some(r) {
			fmt.Fprintf(&b, format, r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func isControl(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 }

// shortDigest is the first 12 hexadecimal digits, enough for people to tell images apart.
func shortDigest(d string) string {
	_, encoded, found := strings.Cut(d, ":")
	if !found {
		return d
	}
	return encoded[:min(12, len(encoded))]
}

// size shows bytes in binary units: "12.5MiB".
func size(bytes int64) string { return units.BytesSize(float64(bytes)) }

// ago shows how long ago something was: "2 hours ago", or nothing for a time that is not known.
func ago(now, then time.Time) string {
	if then.IsZero() {
		return ""
	}
	if now.Sub(then) < time.Second {
		return "now"
	}
	return strings.ToLower(units.HumanDuration(now.Sub(then))) + " ago"
}

// completeness shows "complete", or how much of it is here.
func completeness(complete bool, have, want int) string {
	if complete {
		return "complete"
	}
	return fmt.Sprintf("%d of %d", have, want)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// plural counts things: "1 blob", "3 blobs".
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

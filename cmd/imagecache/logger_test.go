package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// TestNobodyWritesTheLogForUs: neither a line of its own, nor what a terminal obeys.
func TestNobodyWritesTheLogForUs(t *testing.T) {
	const hostile = "a\nmsg=audit\r\x1b[31m\u009b31m\u0085\u202e\u2028\x7f\xff"
	for _, format := range []string{"text", "json"} {
		var out bytes.Buffer
		log, flush := newLogger(&out, &Settings{LogFormat: format})
		log.Info("request", "path", hostile, "error", errors.New(hostile))
		flush()
		told := out.String()
		if strings.Count(told, "\n") != 1 || strings.ContainsFunc(strings.TrimSuffix(told, "\n"), func(r rune) bool { return isControl(r) || r == 0x202e || r == 0x2028 }) {
			t.Errorf("%s: %q", format, told)
		}
		if format == "json" && !json.Valid(out.Bytes()) {
			t.Errorf("not JSON: %q", told)
		}
	}
}

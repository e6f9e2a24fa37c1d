package main

import (
	"io"
	"log/slog"
	"strings"
	"unicode"
)

// newLogger writes the daemon's log as the settings want it. flush is to be
// called before the process ends.
func newLogger(w io.Writer, s *Settings) (log *slog.Logger, flush func()) {
	buffer := newLogBuffer(w)
	options := &slog.HandlerOptions{Level: s.LogLevel}
	var handler slog.Handler = slog.NewTextHandler(buffer, options)
	if s.LogFormat == "json" {
		options.ReplaceAttr = withoutControls
		handler = slog.NewJSONHandler(buffer, options)
	}
	return slog.New(promptly{handler, buffer}), buffer.flush
}

// withoutControls escapes what JSON lets stand and a terminal obeys: the control characters above ASCII, and those that turn the direction
// of a text. Who asks chooses paths, names and agents. The text form escapes them itself.
func withoutControls(_ []string, a slog.Attr) slog.Attr {
	var text string
	switch v := a.Value; v.Kind() {
	case slog.KindString:
		text = v.String()
	case slog.KindAny:
		err, isError := v.Any().(error)
		if !isError {
			return a
		}
		text = err.Error()
	default:
		return a
	}
	if strings.ContainsFunc(text, isHidden) {
		a.Value = slog.StringValue(escaped(text, isHidden, `\u%04x`))
	}
	return a
}

func isHidden(r rune) bool { return r >= 0x7f && r < 0xa0 || unicode.Is(unicode.Cf, r) }

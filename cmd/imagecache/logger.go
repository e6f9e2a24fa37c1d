package main

import (
	"io"
	"log/slog"
)

// newLogger writes the daemon's log as the settings want it. flush is to be
// called before the process ends.
func newLogger(w io.Writer, s *Settings) (log *slog.Logger, flush func()) {
	buffer := newLogBuffer(w)
	options := &slog.HandlerOptions{Level: s.LogLevel}
	var handler slog.Handler = slog.NewTextHandler(buffer, options)
	if s.LogFormat == "json" {
		handler = slog.NewJSONHandler(buffer, options)
	}
	return slog.New(promptly{handler, buffer}), buffer.flush
}

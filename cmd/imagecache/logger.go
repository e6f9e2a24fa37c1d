package main

import (
	"io"
	"log/slog"
)

// newLogger writes the daemon's log as the settings want it.
func newLogger(w io.Writer, s *Settings) *slog.Logger {
	options := &slog.HandlerOptions{Level: s.LogLevel}
	if s.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

package main

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	// A busy mirror writes tens of thousands of access lines a second: gathered,
	// they cost a system call for some hundred lines.
	logBufferSize = 32 << 10
	// A line is seen at most this much later than it was written: soon enough
	// for whoever watches, and all that a kill -9 can take.
	logDelay = 50 * time.Millisecond
)

// logBuffer gathers lines of a log and writes them together: when it is full,
// after logDelay, and at once by flush.
type logBuffer struct {
	to io.Writer

	mu      sync.Mutex // guards what follows, and the order of writes to to
	lines   []byte
	pending *time.Timer // set while lines wait
}

func newLogBuffer(to io.Writer) *logBuffer {
	return &logBuffer{to: to, lines: make([]byte, 0, logBufferSize)}
}

// Write implements io.Writer for whole lines. It always takes them: an error
// of the log has nowhere to be reported.
func (b *logBuffer) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.lines)+len(line) > logBufferSize {
		b.write()
	}
	b.lines = append(b.lines, line...)
	if b.pending == nil {
		b.pending = time.AfterFunc(logDelay, b.flush)
	}
	return len(line), nil
}

// flush writes what waits.
func (b *logBuffer) flush() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.write()
}

// write writes what waits. b.mu is held.
func (b *logBuffer) write() {
	if b.pending != nil {
		b.pending.Stop()
		b.pending = nil
	}
	if len(b.lines) > 0 {
		_, _ = b.to.Write(b.lines)
		b.lines = b.lines[:0]
	}
}

// promptly is a slog.Handler that writes at once what is more than a line of
// routine, and in its order.
type promptly struct {
	slog.Handler
	buffer *logBuffer
}

func (p promptly) Handle(ctx context.Context, r slog.Record) error {
	err := p.Handler.Handle(ctx, r)
	if r.Level > slog.LevelInfo {
		p.buffer.flush()
	}
	return err
}

func (p promptly) WithAttrs(attrs []slog.Attr) slog.Handler {
	return promptly{p.Handler.WithAttrs(attrs), p.buffer}
}

func (p promptly) WithGroup(name string) slog.Handler {
	return promptly{p.Handler.WithGroup(name), p.buffer}
}

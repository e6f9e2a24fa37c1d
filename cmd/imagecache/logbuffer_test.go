package main

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// page is a writer whose content and number of writes can be looked at.
type page struct {
	mu     sync.Mutex
	text   strings.Builder
	writes int
}

func (p *page) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writes++
	return p.text.Write(b)
}

func (p *page) read() (string, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String(), p.writes
}

func TestLogLinesAreGatheredForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p page
		log, flush := newLogger(&p, &Settings{})
		for range 10 {
			log.Info("request")
		}
		if _, writes := p.read(); writes != 0 {
			t.Errorf("%d writes at once", writes)
		}
		time.Sleep(logDelay)
		synctest.Wait()
		if text, writes := p.read(); writes != 1 || strings.Count(text, "msg=request") != 10 {
			t.Errorf("%d writes: %s", writes, text)
		}
		log.Info("last")
		flush()
		if text, _ := p.read(); !strings.Contains(text, "msg=last") {
			t.Error("flush lost a line")
		}
	})
}

func TestWarningsAreWrittenAtOnceAndInOrder(t *testing.T) {
	var p page
	log, _ := newLogger(&p, &Settings{})
	log.Info("first")
	log.With(slog.Int("n", 1)).WithGroup("g").Warn("second")
	text, writes := p.read()
	if first, second := strings.Index(text, "first"), strings.Index(text, "second"); writes != 1 || first < 0 || second < first {
		t.Errorf("%d writes: %s", writes, text)
	}
}

func TestAFullLogBufferIsWritten(t *testing.T) {
	var p page
	b := newLogBuffer(&p)
	line := []byte(strings.Repeat("x", 1000) + "\n")
	for range 3 * logBufferSize / len(line) {
		if _, err := b.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	b.flush()
	text, _ := p.read()
	if want := 3 * logBufferSize / len(line); strings.Count(text, "\n") != want {
		t.Errorf("%d lines, want %d", strings.Count(text, "\n"), want)
	}
}

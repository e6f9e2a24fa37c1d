package storetest

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/imagecache/imagecache/layerstore"
)

// Source is a scripted layerstore.Source: it sends Content, counts what it is
// asked, and misbehaves as told. It may be asked in parallel.
type Source struct {
	Content []byte
	// Script says how the nth request, counted from 0, is answered. Nil, and
	// the zero Answer, mean faithfully.
	Script func(n int, r Request) Answer

	mu       sync.Mutex // guards what follows
	requests []Request
	sent     int64
	open     int
}

// Request is a half-open range [Offset, End) that was asked for; End is -1 for
// "to the end".
type Request struct{ Offset, End int64 }

// Answer is how one request is answered. Offsets are those of the blob, so that
// a script reads the same whatever range is asked for; 0 means never.
type Answer struct {
	Err     error  // instead of a body
	Content []byte // instead of the source's
	Whole   bool   // the range is ignored
	NoSize  bool   // the size is not announced
	Size    int64  // announced instead of the content's, unless 0
	Break   int64  // the body fails with io.ErrUnexpectedEOF here
	Short   int64  // the body ends cleanly here
	// At HoldAt the body waits until Hold is closed or the request's context
	// ends; with a nil Hold it stalls. AtStart is before the first byte.
	HoldAt int64
	Hold   <-chan struct{}
}

// AtStart is the HoldAt of a body that waits before its first byte.
const AtStart = -1

// NewSource is a faithful source of content.
func NewSource(content []byte) *Source { return &Source{Content: content} }

// Answers is a source that answers its first requests as told, one after the
// other, and all later ones faithfully.
func Answers(content []byte, first ...Answer) *Source {
	return &Source{Content: content, Script: func(n int, _ Request) Answer {
		if n < len(first) {
			return first[n]
		}
		return Answer{}
	}}
}

// Always is a source that answers every request in the same way.
func Always(content []byte, a Answer) *Source {
	return &Source{Content: content, Script: func(int, Request) Answer { return a }}
}

// Requests are what was asked so far, in order.
func (s *Source) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.requests...)
}

// Sent is how many bytes were sent so far.
func (s *Source) Sent() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent
}

// OpenBodies is how many bodies were not closed yet.
func (s *Source) OpenBodies() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// Open implements layerstore.Source.
func (s *Source) Open(ctx context.Context, offset, end int64) (*layerstore.Body, error) {
	answer := s.answer(Request{offset, end})
	if answer.Err != nil {
		return nil, answer.Err
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	content := s.Content
	if answer.Content != nil {
		content = answer.Content
	}
	size := int64(len(content))
	if answer.Whole {
		offset, end = 0, -1
	}
	if end < 0 || end > size {
		end = size
	}
	if offset > end {
		return nil, errors.New("416 range not satisfiable")
	}
	s.mu.Lock()
	s.open++
	s.mu.Unlock()
	b := &body{source: s, ctx: ctx, content: content[:end], at: offset, answer: answer}
	return &layerstore.Body{ReadCloser: b, Offset: offset, Size: announced(answer, size)}, nil
}

func announced(a Answer, size int64) int64 {
	switch {
	case a.NoSize:
		return -1
	case a.Size != 0:
		return a.Size
	}
	return size
}

func (s *Source) answer(r Request) Answer {
	s.mu.Lock()
	n := len(s.requests)
	s.requests = append(s.requests, r)
	s.mu.Unlock()
	if s.Script == nil {
		return Answer{}
	}
	return s.Script(n, r)
}

type body struct {
	source  *Source
	ctx     context.Context
	content []byte // up to the end of what was asked for
	at      int64
	answer  Answer
	held    bool
	closed  bool
}

func (b *body) Read(p []byte) (int, error) {
	if err := context.Cause(b.ctx); err != nil {
		return 0, err
	}
	if b.answer.HoldAt == AtStart || b.answer.HoldAt > 0 && b.at == b.answer.HoldAt {
		if err := b.hold(); err != nil {
			return 0, err
		}
	}
	switch {
	case b.answer.Break > 0 && b.at >= b.answer.Break:
		return 0, io.ErrUnexpectedEOF
	case b.answer.Short > 0 && b.at >= b.answer.Short, b.at >= int64(len(b.content)):
		return 0, io.EOF
	}
	n := copy(p, b.content[b.at:b.stop()])
	b.at += int64(n)
	b.source.mu.Lock()
	b.source.sent += int64(n)
	b.source.mu.Unlock()
	return n, nil
}

// stop is the next offset at which something happens.
func (b *body) stop() int64 {
	stop := int64(len(b.content))
	for _, at := range []int64{b.answer.Break, b.answer.Short, b.answer.HoldAt} {
		if at > b.at {
			stop = min(stop, at)
		}
	}
	return stop
}

func (b *body) hold() error {
	if b.held {
		return nil
	}
	b.held = true
	select {
	case <-b.answer.Hold:
		return nil
	case <-b.ctx.Done():
		return context.Cause(b.ctx)
	}
}

func (b *body) Close() error {
	b.source.mu.Lock()
	defer b.source.mu.Unlock()
	if !b.closed {
		b.closed = true
		b.source.open--
	}
	return nil
}

// Refusal is an error that a source means for good: it is not asked again.
type Refusal struct{ Text string }

func (r Refusal) Error() string { return r.Text }

// Permanent marks it, see layerstore.Source.
func (Refusal) Permanent() bool { return true }

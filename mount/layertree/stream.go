package layertree

import (
	"context"
	"errors"
	"io"
)

// maxHeader is how many bytes one entry's headers may take: archive/tar reads at
// most 1 MiB each of a long name, a long target, an extension and a sparse
// map, but any number of extensions that follow one another.
const maxHeader = 5 << 20

// stream counts what is read of a layer, and ends it when the context does or
// when the bytes that are allowed are used up.
type stream struct {
	ctx     context.Context
	r       io.Reader
	n       int64 // read so far
	allowed int64 // how far n may go
	over    error // for when it goes further
	err     error // the first error other than io.EOF
}

// allow lets n more bytes pass before err.
func (s *stream) allow(n int64, err error) { s.allowed, s.over = s.n+n, err }

func (s *stream) Read(p []byte) (int, error) {
	if s.err == nil {
		s.err = s.ctx.Err()
	}
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	s.n += int64(n)
	if s.n > s.allowed {
		err = s.over
	}
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// content is the bytes of one file: exactly left of them, or an error.
type content struct {
	r    io.Reader
	left int64
	err  error // why r could not be read
}

func (c *content) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	if c.left == 0 {
		return 0, io.EOF
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	if errors.Is(err, io.EOF) {
		err = nil
		if c.left > 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	c.err = err
	return n, err
}

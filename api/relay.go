package api

import (
	"errors"
	"io"
	"sync"
	"syscall"
)

// relaySize is how many bytes are copied at once where the kernel has no file
// to send from.
const relaySize = 256 << 10

var relayBuffers = sync.Pool{New: func() any { b := make([]byte, relaySize); return &b }}

// relay sends the next n bytes of a blob that goes past the store.
func (s *sender) relay(n int64) (sent int64, err error) {
	buf := relayBuffers.Get().(*[]byte)
	defer relayBuffers.Put(buf)
	for sent < n {
		k, err := s.content.blob.Read((*buf)[:min(relaySize, n-sent)])
		if k > 0 {
			m, werr := s.Write((*buf)[:k])
			sent += int64(m)
			if werr != nil {
				return sent, werr
			}
		}
		if err == io.EOF && sent < n {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && sent < n {
			return sent, s.broken(err)
		}
	}
	return sent, nil
}

// unreadable reports whether sending a file failed for the file's sake and not
// the connection's: a disk says EIO, a socket never does, and a file may have
// become shorter.
func unreadable(err error) bool {
	return errors.Is(err, syscall.EIO) || errors.Is(err, io.ErrUnexpectedEOF)
}

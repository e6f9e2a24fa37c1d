package layertree

import (
	"errors"
	"io"
	"sync"
)

// Buffers that wait between two goroutines: four let both go on while the
// other is late, and 256 KiB makes the hand-over cheap against what is done
// with so many bytes.
const (
	aheadBuffers = 4
	aheadBytes   = 256 << 10
)

var aheadPool = sync.Pool{New: func() any { return new([aheadBytes]byte) }}

// ReadAhead reads r in a goroutine of its own, up to 1 MiB ahead, so that what
// r does overlaps with what is done with its bytes.
//
// Close ends it and waits for a Read of r that is under way: to end that sooner,
// first cancel what r reads from. It does not close r, and r is not used
// after it. Reading to the end or to an error ends the goroutine too.
func ReadAhead(r io.Reader) io.ReadCloser {
	a := &ahead{
		full: make(chan chunk, aheadBuffers),
		stop: make(chan struct{}),
		done: make(chan struct{}),
	}
	go a.fill(r)
	return a
}

// chunk is a buffer with what was read into it, and the error that came then.
type chunk struct {
	buffer *[aheadBytes]byte
	data   []byte // what of buffer is not read yet
	err    error
}

func (c chunk) free() {
	if c.buffer != nil {
		aheadPool.Put(c.buffer)
	}
}

type ahead struct {
	full    chan chunk
	stop    chan struct{} // closed by Close
	done    chan struct{} // closed when the goroutine has ended
	stopped sync.Once
	current chunk
}

func (a *ahead) fill(r io.Reader) {
	defer close(a.done)
	defer close(a.full)
	for {
		c := read(r)
		select {
		case a.full <- c:
		case <-a.stop:
			c.free()
			return
		}
		if c.err != nil {
			return
		}
	}
}

// read fills a buffer as far as r gives bytes: what is there is passed on only
// when it is worth it.
func read(r io.Reader) chunk {
	buffer := aheadPool.Get().(*[aheadBytes]byte)
	for n := 0; ; {
		m, err := r.Read(buffer[n:])
		if n += m; err != nil || n == aheadBytes {
			return chunk{buffer, buffer[:n], err}
		}
	}
}

var errClosed = errors.New("read after close")

func (a *ahead) Read(p []byte) (int, error) {
	for len(a.current.data) == 0 {
		if a.current.err != nil {
			return 0, a.current.err
		}
		a.current.free()
		a.current = chunk{}
		c, ok := <-a.full
		if !ok {
			return 0, errClosed
		}
		a.current = c
	}
	n := copy(p, a.current.data)
	a.current.data = a.current.data[n:]
	return n, nil
}

func (a *ahead) Close() error {
	a.stopped.Do(func() {
		close(a.stop)
		<-a.done
		for c := range a.full {
			c.free()
		}
		a.current.free()
		a.current = chunk{err: errClosed}
	})
	return nil
}

package erofs

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
)

// tails keeps the last bytes of files until their inodes are written, in a file
// without a name, so that memory does not grow with what a layer holds.
type tails struct {
	dir    string // where that file is made
	f      *os.File
	buffer *bufio.Writer
	size   int64
}

// add keeps b and tells the offset at which read finds it.
func (t *tails) add(b []byte) (offset int64, err error) {
	if t.f == nil {
		if err := t.open(); err != nil {
			return 0, err
		}
	}
	offset = t.size
	t.size += int64(len(b))
	_, err = t.buffer.Write(b)
	return offset, err
}

func (t *tails) open() error {
	f, err := os.CreateTemp(t.dir, "tails-*")
	if err != nil {
		return err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return err
	}
	t.f, t.buffer = f, bufio.NewWriterSize(f, 64<<10)
	return nil
}

// read gives size bytes from offset on. Nothing may be added after it.
func (t *tails) read(offset, size int64) ([]byte, error) {
	if t.buffer.Buffered() > 0 {
		if err := t.buffer.Flush(); err != nil {
			return nil, err
		}
	}
	b := make([]byte, size)
	_, err := io.ReadFull(io.NewSectionReader(t.f, offset, size), b)
	return b, err
}

func (t *tails) close() {
	if t.f != nil {
		t.f.Close() // nothing of it is needed any more
	}
	t.f = nil
}

func newTails(beside *os.File) tails { return tails{dir: filepath.Dir(beside.Name())} }

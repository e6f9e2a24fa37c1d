package registry

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"
)

// importWindow bounds what a zstd stream may look back to, in bytes: zstd's own
// program unpacks no more without --long, and nothing that it writes without needs it.
const importWindow = 128 << 20

// magics are how compressed files begin.
var magics = []struct {
	begins  string
	name    string
	program string // that unpacks it; "": we do
}{
	{"\x1f\x8b", "gzip", ""},
	{"\x28\xb5\x2f\xfd", "zstd", ""},
	{"\xfd7zXZ\x00", "xz", "xz -dc"},
	{"BZh", "bzip2", "bzip2 -dc"},
	{"\x04\x22\x4d\x18", "lz4", "lz4 -dc"},
	{"PK\x03\x04", "zip", "unzip -p"},
}

// unzip gives what a stream holds, compressed or not, and how it was compressed:
// "gzip", "zstd" or "". What is broken in it is an *[Error] of the archive; an error
// of from comes out as it is. The caller closes it.
func unzip(from io.Reader) (io.ReadCloser, string, error) {
	source := &importSource{r: from}
	buffered := bufio.NewReaderSize(source, importBuffer)
	magic, err := buffered.Peek(8)
	if err != nil && err != io.EOF {
		return nil, "", err
	}
	for _, m := range magics {
		switch {
		case !bytes.HasPrefix(magic, []byte(m.begins)):
		case m.program != "":
			return nil, "", badArchive("it is compressed with %s, which is not taken: send on what %q prints of it", m.name, m.program)
		default:
			plain, err := unzipper(m.name, buffered)
			if err != nil {
				return nil, "", source.explain(err)
			}
			return unzipped{plain, source}, m.name, nil
		}
	}
	return io.NopCloser(buffered), "", nil
}

func unzipper(name string, from io.Reader) (io.ReadCloser, error) {
	if name == "gzip" {
		return gzip.NewReader(from)
	}
	// One goroutine: what waits at the store is not decoded ahead. All that comes out
	// counts to the memory of this library, so that it is bounded by the window.
	d, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(importWindow), zstd.WithDecoderMaxMemory(math.MaxInt64))
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

// importSource remembers why no more came, which is not to be taken for an error in what did.
type importSource struct {
	r   io.Reader
	err error
}

func (s *importSource) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

func (s *importSource) explain(err error) error {
	switch {
	case s.err != nil:
		return s.err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return io.ErrUnexpectedEOF
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return badArchive("its zstd frames look back over more than %d bytes; send on what \"zstd -dc --long=31\" prints of it", importWindow)
	}
	return badArchive("its compressed data is damaged: %v", err)
}

// unzipped explains the errors of what it reads.
type unzipped struct {
	io.ReadCloser
	source *importSource
}

func (u unzipped) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	if errors.Is(err, gzip.ErrHeader) || errors.Is(err, zstd.ErrMagicMismatch) {
		return n, io.EOF // what stands behind its end is not compressed, so it is not its
	}
	if err != nil && err != io.EOF {
		err = u.source.explain(err)
	}
	return n, err
}

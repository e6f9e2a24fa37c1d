package layertree

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow is how much memory one zstd layer may ask for: what zstd --long
// (27 bits) uses, and sixteen times what every decoder must have (RFC 8878,
// 3.1.1.1.2).
const maxWindow = 128 << 20

// compressedBuffer is how much compressed data is read at once.
const compressedBuffer = 64 << 10

// Decompress tells gzip, zstd and plain tar apart by their first bytes, as
// containerd does, and gives the tar stream. Members or frames that follow one
// another are one stream; anything else behind them is an error. No bytes at
// all are an empty layer.
//
// It works ahead in a goroutine of its own: see [ReadAhead], also for Close. An
// error of r comes out as it is; what is wrong with the compressed data is a
// *RefusedError.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	origin := &origin{r: r}
	buffered := bufio.NewReaderSize(origin, compressedBuffer)
	magic, err := buffered.Peek(8)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case isGzip(magic):
		return newDecompressor(origin, func() (io.ReadCloser, error) { return gzip.NewReader(buffered) })
	case isZstd(magic):
		return newDecompressor(origin, func() (io.ReadCloser, error) { return newZstd(buffered) })
	}
	return ReadAhead(buffered), nil
}

func isGzip(magic []byte) bool { return bytes.HasPrefix(magic, []byte{0x1f, 0x8b, 0x08}) }

// isZstd knows a frame, and a frame to be skipped, that has its length too.
func isZstd(magic []byte) bool {
	const frame, skippable, skippableMask = 0xfd2fb528, 0x184d2a50, 0xfffffff0
	if len(magic) < 4 {
		return false
	}
	number := binary.LittleEndian.Uint32(magic)
	return number == frame || len(magic) == 8 && number&skippableMask == skippable
}

func newZstd(r io.Reader) (io.ReadCloser, error) {
	d, err := zstd.NewReader(r,
		zstd.WithDecoderConcurrency(1), // the goroutine that reads ahead is the one
		zstd.WithDecoderMaxWindow(maxWindow),
		zstd.WithDecoderMaxMemory(math.MaxInt64), // counts all output of a stream: Limits do
	)
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

// origin remembers why the compressed bytes could not be read, so that it is not
// taken for an error in them.
type origin struct {
	r   io.Reader
	err error
}

func (o *origin) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		o.err = err
	}
	return n, err
}

// decompressor is an ahead with what is to be closed behind it.
type decompressor struct {
	io.ReadCloser
	codec io.Closer
}

func newDecompressor(o *origin, open func() (io.ReadCloser, error)) (io.ReadCloser, error) {
	codec, err := open()
	if err != nil {
		return nil, o.explain(err)
	}
	return &decompressor{ReadAhead(explained{codec, o}), codec}, nil
}

func (d *decompressor) Close() error {
	return errors.Join(d.ReadCloser.Close(), d.codec.Close())
}

// explained gives errors of decompression their type.
type explained struct {
	r io.Reader
	o *origin
}

func (e explained) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = e.o.explain(err)
	}
	return n, err
}

func (o *origin) explain(err error) error {
	if o.err != nil {
		return o.err
	}
	if errors.Is(err, zstd.ErrWindowSizeExceeded) {
		return &RefusedError{Reason: fmt.Sprintf("its zstd window is above %d bytes", maxWindow), Err: err}
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &RefusedError{Reason: "its compressed data is broken, or something else follows it", Err: err}
}

package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/bits"
)

const (
	// pieceSize is how much of a file is looked at once for zeros, in bytes, and
	// the least size of a chunk. Shorter runs of zeros are written out.
	pieceSize = 64 << 10
	// maxChunks bounds the map of one file: 65,536 numbers of 4 bytes. Files above
	// 4 GiB have larger chunks instead.
	maxChunks = 64 << 10
)

var zeros [pieceSize]byte

// content is where the bytes of one regular file are.
type content struct {
	size   int64
	block  uint32 // the first one; without meaning for a sparse file
	tail   int64  // offset of the last bytes in the tails; -1: they are in the blocks
	sparse []byte // the chunk map as it is on disk; nil: the blocks are consecutive
}

// tailSize is how many of the file's bytes follow its inode.
func (c content) tailSize() int64 {
	if c.tail < 0 {
		return 0
	}
	return c.size % blockSize
}

// chunkBits is the logarithm of the size of a chunk in a file of size bytes.
func chunkBits(size int64) int {
	need := bits.Len64(uint64((size+maxChunks-1)/maxChunks - 1))
	return max(need, bits.Len(pieceSize)-1)
}

// copying is one regular file on its way to the output.
type copying struct {
	w         *Writer
	content   content
	chunkSize int64
	done      int64 // bytes looked at
	start     int64 // block at which the present chunk begins, should it hold anything
	zeros     int64 // bytes of zeros since the last byte written, within the present chunk
	hole      bool  // the file has one
	chunks    []byte
}

func (w *Writer) copyFile(r io.Reader, size int64) (content, error) {
	c := copying{w: w, content: content{size: size, tail: -1}, chunkSize: 1 << chunkBits(size)}
	first := w.out.block()
	if first >= nullBlock {
		return content{}, errTooLarge
	}
	c.content.block, c.start, c.chunks = uint32(first), first, w.chunks[:0]
	for c.done < size {
		piece := w.piece[:min(pieceSize, size-c.done)]
		if _, err := io.ReadFull(r, piece); err != nil {
			return content{}, shortRead(err, c.done, size)
		}
		if err := c.add(piece); err != nil {
			return content{}, err
		}
	}
	w.chunks = c.chunks
	if c.hole {
		c.content.sparse = bytes.Clone(c.chunks)
	}
	return c.content, nil
}

// shortRead names a stream that ended early by what it is.
func shortRead(err error, done, size int64) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("after %d bytes of a file of %d: %w", done, size, err)
}

// add takes the next piece of the file.
func (c *copying) add(piece []byte) error {
	c.done += int64(len(piece))
	last := c.done == c.content.size
	if c.content.size >= pieceSize && bytes.Equal(piece, zeros[:len(piece)]) {
		c.zeros += int64(len(piece))
	} else if err := c.write(piece, last); err != nil {
		return err
	}
	if last || c.done%c.chunkSize == 0 {
		return c.endChunk()
	}
	return nil
}

// write writes a piece that is not zero, and the zeros that stand before it in
// its chunk. The tail of a file goes to the tails, if it may: after a hole all
// that follows is found by the map.
func (c *copying) write(piece []byte, last bool) error {
	if err := c.w.out.skip(c.zeros); err != nil {
		return err
	}
	c.zeros = 0
	tail := c.content.size % blockSize
	if !last || c.hole || tail == 0 || tail > maxInline {
		return c.w.out.write(piece)
	}
	cut := int64(len(piece)) - tail
	offset, err := c.w.tails.add(piece[cut:])
	if err != nil {
		return err
	}
	c.content.tail = offset
	return c.w.out.write(piece[:cut])
}

// endChunk notes where the chunk is, or that it holds nothing.
func (c *copying) endChunk() error {
	inChunk := (c.done-1)%c.chunkSize + 1
	block := uint32(c.start)
	if c.zeros == inChunk {
		block, c.hole = nullBlock, true
	} else if err := c.w.out.skip(c.zeros); err != nil {
		return err
	}
	c.zeros = 0
	if err := c.w.out.align(); err != nil {
		return err
	}
	c.chunks = appendUint32(c.chunks, block)
	c.start = c.w.out.block()
	if c.start >= nullBlock {
		return errTooLarge
	}
	return nil
}

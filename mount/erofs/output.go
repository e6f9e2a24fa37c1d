package erofs

import (
	"hash/crc32"
	"os"
)

// outputBuffer is how many bytes are collected before they are written: enough
// that a call costs little, and little beside the decompressor's window.
const outputBuffer = 256 << 10

// output writes a file front to back, and leaves holes in it.
type output struct {
	f       *os.File
	flushed int64 // where buffer begins in the file
	buffer  []byte
	sum     uint32 // CRC-32C of all bytes written
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func newOutput(f *os.File) *output {
	return &output{f: f, buffer: make([]byte, 0, outputBuffer)}
}

// at is the offset of the next byte.
func (o *output) at() int64 { return o.flushed + int64(len(o.buffer)) }

// block is the block in which the next byte will be; the offset is aligned.
func (o *output) block() int64 { return o.at() >> blockBits }

func (o *output) write(p []byte) error {
	for len(p) > 0 {
		n := copy(o.buffer[len(o.buffer):cap(o.buffer)], p)
		o.buffer = o.buffer[:len(o.buffer)+n]
		p = p[n:]
		if len(o.buffer) == cap(o.buffer) {
			if err := o.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// skip leaves n bytes zero. Many of them are left as a hole.
func (o *output) skip(n int64) error {
	if room := int64(cap(o.buffer) - len(o.buffer)); n < room {
		from := len(o.buffer)
		o.buffer = o.buffer[:from+int(n)]
		clear(o.buffer[from:])
		return nil
	}
	if err := o.flush(); err != nil {
		return err
	}
	o.flushed += n
	return nil
}

// align goes on to the next start of a block.
func (o *output) align() error { return o.skipTo(roundUp(o.at(), blockSize)) }

func (o *output) skipTo(offset int64) error { return o.skip(offset - o.at()) }

func (o *output) flush() error {
	_, err := o.f.WriteAt(o.buffer, o.flushed)
	o.sum = crc32.Update(o.sum, castagnoli, o.buffer)
	o.flushed += int64(len(o.buffer))
	o.buffer = o.buffer[:0]
	return err
}

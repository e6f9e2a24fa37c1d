package layertree

import (
	"bytes"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Sizes in bytes: of the zeros that become a hole, the block of most file
// systems; and of what is written at once.
const (
	holeBytes = 4 << 10
	copyBytes = 256 << 10
)

// zeros copies files, leaving out blocks of zeros: they become holes.
type zeros struct {
	buffer []byte
}

func newZeros() *zeros { return &zeros{make([]byte, copyBytes)} }

var zeroBlock [holeBytes]byte

// copy writes all of r, which has size bytes, to an empty file.
func (z *zeros) copy(fd int, r io.Reader, size int64) error {
	written := int64(0) // how long the file is
	for at := int64(0); at < size; {
		n, err := io.ReadFull(r, z.buffer[:min(size-at, copyBytes)])
		if err != nil {
			return errors.Join(errors.New("read the bytes of a file"), err)
		}
		end, err := writeBlocks(fd, z.buffer[:n], at)
		if err != nil {
			return err
		}
		written = max(written, end)
		at += int64(n)
	}
	if written == size {
		return nil
	}
	return os.NewSyscallError("ftruncate", unix.Ftruncate(fd, size))
}

// writeBlocks writes those blocks of p that are not all zeros, and gives the end
// of the last. at is a multiple of holeBytes.
func writeBlocks(fd int, p []byte, at int64) (end int64, err error) {
	for len(p) > 0 {
		empty := leading(p, true)
		full := leading(p[empty:], false)
		if full > 0 {
			if err := writeAt(fd, p[empty:empty+full], at+int64(empty)); err != nil {
				return 0, err
			}
			end = at + int64(empty+full)
		}
		p = p[empty+full:]
		at += int64(empty + full)
	}
	return end, nil
}

// leading is the length of the blocks at p's beginning that are all zeros, or
// that are not.
func leading(p []byte, empty bool) int {
	n := 0
	for n < len(p) {
		block := p[n:min(n+holeBytes, len(p))]
		if bytes.Equal(block, zeroBlock[:len(block)]) != empty {
			break
		}
		n += len(block)
	}
	return n
}

func writeAt(fd int, p []byte, at int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(fd, p, at)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("pwrite", err)
		}
		p, at = p[n:], at+int64(n)
	}
	return nil
}

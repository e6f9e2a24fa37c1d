package layerstore

import (
	"errors"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// directChunk is one read of a scrub, in bytes: large enough for a disk to be
// read in order, small enough for a pass at the default rate to pause often. It
// is a multiple of every block size.
const directChunk = 1 << 20

// directBuffer is memory at the begin of a page, as reads past the page cache
// want it.
type directBuffer struct{ bytes []byte }

func newDirectBuffer() (*directBuffer, error) {
	b, err := unix.Mmap(-1, 0, directChunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	return &directBuffer{b}, os.NewSyscallError("mmap", err)
}

func (b *directBuffer) free() { _ = unix.Munmap(b.bytes) }

// directFile is read past the page cache, so that a scrub sees what the disk
// holds and pushes nothing out of memory. Where the file system cannot do that
// it is read through the cache, and what was read is dropped from it.
type directFile struct {
	*os.File
	cached bool
}

func openDirect(path string) (*directFile, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err == nil {
		return &directFile{File: f}, nil
	}
	if !errors.Is(err, unix.EINVAL) {
		return nil, err
	}
	f, err = os.Open(path)
	return &directFile{f, true}, err
}

func (f *directFile) close() { f.File.Close() }

// hash reads size bytes and compares: nil when they hash to d, wrongHash
// when not. tell is called with the length of each read; its error ends it.
func (f *directFile) hash(d digest.Digest, size int64, buf *directBuffer, tell func(int64) error) error {
	hash := d.Algorithm().Hash()
	for at := int64(0); at < size; {
		n, err := f.readAt(buf.bytes, at)
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		n = int(min(int64(n), size-at))
		hash.Write(buf.bytes[:n])
		at += int64(n)
		if err := tell(int64(n)); err != nil {
			return err
		}
	}
	if got := digest.NewDigest(d.Algorithm(), hash); got != d {
		return wrongHash(got)
	}
	return nil
}

// readAt is one read. A file system that takes the flag and refuses the read,
// or has left an offset that is no multiple of its blocks, is read through the
// cache from here on.
func (f *directFile) readAt(p []byte, at int64) (int, error) {
	fd := int(f.Fd())
	for {
		n, err := unix.Pread(fd, p, at)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EINVAL) && !f.cached:
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_RDONLY); err != nil {
				return 0, os.NewSyscallError("fcntl", err)
			}
			f.cached = true
			continue
		case err != nil:
			return 0, &os.PathError{Op: "read", Path: f.Name(), Err: err}
		}
		if f.cached {
			_ = unix.Fadvise(fd, at, int64(n), unix.FADV_DONTNEED) // advice
		}
		return n, nil
	}
}

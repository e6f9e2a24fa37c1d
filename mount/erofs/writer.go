package erofs

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"

	"github.com/imagecache/imagecache/mount/layertree"
)

// Writer writes one EROFS file: first, by File, the bytes of all regular files,
// then, by Finish, the tree that names them. It is a layertree.Sink. Its methods
// must not be called in parallel.
type Writer struct {
	out      *output
	contents []content // Node.Content n is contents[n-1]
	tails    tails
	failed   error
	piece    []byte // a piece of the file on its way
	chunks   []byte // space for the chunk map of the file on its way
}

// NewWriter writes to f, which must be new and empty, and stays the caller's to
// sync and to close. Beside f, while it writes, is a file without a name.
func NewWriter(f *os.File) *Writer {
	w := &Writer{out: newOutput(f), tails: newTails(f), piece: make([]byte, pieceSize)}
	w.failed = w.out.skip(blockSize)
	return w
}

// File takes the bytes of one regular file, size of them, and returns the number
// for its Node.Content. An r that ends early is an io.ErrUnexpectedEOF.
func (w *Writer) File(r io.Reader, size int64) (number int64, err error) {
	if w.failed != nil {
		return 0, w.failed
	}
	c := content{tail: -1}
	if size > 0 {
		if c, w.failed = w.copyFile(r, size); w.failed != nil {
			return 0, w.failed
		}
	}
	w.contents = append(w.contents, c)
	return int64(len(w.contents)), nil
}

// Finish writes the tree, and the superblock at last, and returns how long the
// file is, in bytes. What EROFS cannot hold is an [UnfitError]. The file is not
// synced. After it, and after any error, the Writer is of no more use.
func (w *Writer) Finish(t *layertree.Tree) (size int64, err error) {
	defer w.Close()
	if w.failed != nil {
		return 0, w.failed
	}
	p, err := newPlan(t, w.contents)
	if err != nil {
		return 0, err
	}
	if err := w.writeMetadata(p); err != nil {
		return 0, err
	}
	size = w.out.at()
	if size>>blockBits >= nullBlock {
		return 0, errTooLarge
	}
	if err := w.out.f.Truncate(size); err != nil {
		return 0, err
	}
	return size, w.writeSuper(p, size)
}

// Close frees what a Writer holds that will not be finished. Finish does so too.
// It does not close the file.
func (w *Writer) Close() {
	if w.failed == nil {
		w.failed = errFinished
	}
	w.tails.close()
}

// writeMetadata writes the inodes, and then the blocks of folders and of long
// links, in the order in which the plan has them.
func (w *Writer) writeMetadata(p *plan) error {
	start := w.out.at()
	p.place(start >> blockBits)
	p.hash = sha256.New()
	for i := range p.inodes {
		if err := w.writeInode(p, i, start); err != nil {
			return err
		}
	}
	if err := w.out.skipTo(p.dataBlock << blockBits); err != nil {
		return err
	}
	for i := range p.inodes {
		if err := w.writeBlocks(p, i); err != nil {
			return err
		}
	}
	return w.out.flush() // at the end of a block: a loop device reads no part of one
}

func (w *Writer) writeInode(p *plan, i int, start int64) error {
	if err := w.out.skipTo(start + p.inodes[i].at); err != nil {
		return err
	}
	b, err := p.encode(i, w.tails.read)
	if err != nil {
		return err
	}
	p.hash.Write(b)
	return w.out.write(b)
}

func (w *Writer) writeBlocks(p *plan, i int) error {
	if p.inodes[i].blocks == 0 {
		return nil
	}
	b := p.blockBytes(i)
	p.hash.Write(b)
	if err := w.out.write(b); err != nil {
		return err
	}
	return w.out.align()
}

func (w *Writer) writeSuper(p *plan, size int64) error {
	s := super{
		chunks: p.sparse, root: p.number(0), inodes: len(p.inodes), time: p.time,
		blocks: uint32(size >> blockBits), metaBlock: uint32(p.metaBlock), uuid: uuid(p.hash, w.out.sum),
	}
	b := s.encode()
	// The kernel's CRC is the usual one without its last step, the inversion.
	binary.LittleEndian.PutUint32(b[4:], ^crc32.Checksum(b, castagnoli))
	if _, err := w.out.f.WriteAt(b, superOffset); err != nil {
		return fmt.Errorf("the superblock: %w", err)
	}
	return nil
}

// uuid makes the volume's name from its metadata and the sum of all bytes. An
// overlay tells its lower layers apart by it.
func uuid(metadata hash.Hash, sum uint32) (id [16]byte) {
	metadata.Write(binary.LittleEndian.AppendUint32(nil, sum))
	copy(id[:], metadata.Sum(nil))
	id[6] = id[6]&0x0f | 0x80 // version 8 of RFC 9562: made by rules of one's own
	id[8] = id[8]&0x3f | 0x80
	return id
}

func appendUint32(b []byte, n uint32) []byte { return binary.LittleEndian.AppendUint32(b, n) }

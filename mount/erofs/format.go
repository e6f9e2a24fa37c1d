package erofs

import "encoding/binary"

// The format, as fs/erofs/erofs_fs.h of Linux 5.15 defines it. Numbers on disk
// are little-endian.
const (
	blockBits = 12 // kernels before 6.4 mount only blocks of a page's size
	blockSize = 1 << blockBits

	superOffset = 1024
	superMagic  = 0xe0f5e1e2

	compatChecksum = 1 << 0 // the superblock has one
	compatMtime    = 1 << 1 // the time of an inode is its mtime
	incompatChunks = 1 << 2 // files with a chunk map; since Linux 5.15

	slotSize     = 32 // inodes are numbered by where they begin, in units of 32 bytes
	compactSize  = 32
	extendedSize = 64

	flatPlain  = 0 // data in consecutive blocks
	flatInline = 2 // the same, but what is in the last block follows the inode
	chunkBased = 4 // a map of chunks follows the inode

	nullBlock   = 0xffffffff // a chunk of zeros
	direntSize  = 12
	maxNameSize = 255

	xattrHeaderSize = 12
	xattrEntrySize  = 4
)

// maxInline is how much data may follow an inode, in bytes. It must end in the
// block in which it begins. Up to half a block is worth it: what is longer fits
// into fewer blocks, and leaves larger gaps in front of it than it would leave in
// a block of its own.
const maxInline = blockSize / 2

// super is what the superblock says of one file.
type super struct {
	chunks    bool  // some file has a chunk map
	root      int64 // number of the root's inode
	inodes    int
	time      stamp // of all compact inodes
	blocks    uint32
	metaBlock uint32
	uuid      [16]byte
}

// encode gives the superblock without its checksum, which covers everything from
// it to the end of its block.
func (s super) encode() []byte {
	b := make([]byte, blockSize-superOffset)
	le := binary.LittleEndian
	le.PutUint32(b[0:], superMagic)
	le.PutUint32(b[8:], compatChecksum|compatMtime)
	b[12] = blockBits
	le.PutUint16(b[14:], uint16(s.root))
	le.PutUint64(b[16:], uint64(s.inodes))
	le.PutUint64(b[24:], uint64(s.time.seconds))
	le.PutUint32(b[32:], uint32(s.time.nanoseconds))
	le.PutUint32(b[36:], s.blocks)
	le.PutUint32(b[40:], s.metaBlock)
	copy(b[48:], s.uuid[:])
	if s.chunks {
		le.PutUint32(b[80:], incompatChunks)
	}
	return b
}

// core is one inode on disk, without what follows it.
type core struct {
	compact    bool
	layout     uint16
	xattrCount uint16
	mode       uint16
	links      uint32
	size       uint64
	data       uint32 // first block, device number, or format of the chunk map
	number     uint32 // for programs with 32-bit inode numbers
	uid, gid   uint32
	time       stamp
}

func (c core) encode() []byte {
	if c.compact {
		return c.encodeCompact()
	}
	b := make([]byte, extendedSize)
	le := binary.LittleEndian
	le.PutUint16(b[0:], c.layout<<1|1)
	le.PutUint16(b[2:], c.xattrCount)
	le.PutUint16(b[4:], c.mode)
	le.PutUint64(b[8:], c.size)
	le.PutUint32(b[16:], c.data)
	le.PutUint32(b[20:], c.number)
	le.PutUint32(b[24:], c.uid)
	le.PutUint32(b[28:], c.gid)
	le.PutUint64(b[32:], uint64(c.time.seconds))
	le.PutUint32(b[40:], uint32(c.time.nanoseconds))
	le.PutUint32(b[44:], c.links)
	return b
}

func (c core) encodeCompact() []byte {
	b := make([]byte, compactSize)
	le := binary.LittleEndian
	le.PutUint16(b[0:], c.layout<<1)
	le.PutUint16(b[2:], c.xattrCount)
	le.PutUint16(b[4:], c.mode)
	le.PutUint16(b[6:], uint16(c.links))
	le.PutUint32(b[8:], uint32(c.size))
	le.PutUint32(b[16:], c.data)
	le.PutUint32(b[20:], c.number)
	le.PutUint16(b[24:], uint16(c.uid))
	le.PutUint16(b[26:], uint16(c.gid))
	return b
}

// roundUp is n, or the next larger multiple of unit.
func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

package erofs

import (
	"math"

	"golang.org/x/sys/unix"
)

// fileType is the type that a directory entry gives for a mode; 0: none.
func fileType(mode uint32) byte {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return 1
	case unix.S_IFDIR:
		return 2
	case unix.S_IFCHR:
		return 3
	case unix.S_IFBLK:
		return 4
	case unix.S_IFIFO:
		return 5
	case unix.S_IFSOCK:
		return 6
	case unix.S_IFLNK:
		return 7
	}
	return 0
}

// dataSize is how long a file, a folder or the target of a link is, in bytes.
func (n *inode) dataSize() int64 {
	switch n.node.Type() {
	case unix.S_IFREG:
		return n.node.Size
	case unix.S_IFDIR:
		return folderSize(n.names)
	case unix.S_IFLNK:
		return int64(len(n.node.Target))
	}
	return 0
}

// ownBlocks is how many blocks a folder or a link has outside of its inode.
func (p *plan) ownBlocks(i int) int64 {
	if p.inodes[i].node.Type() == unix.S_IFREG {
		return 0 // they were written when the file came
	}
	return (p.inodes[i].size - p.inlineSize(i) + blockSize - 1) / blockSize
}

// inlineSize is how many bytes of data follow the inode and must not be cut by
// the end of a block.
func (p *plan) inlineSize(i int) int64 {
	n := p.inodes[i].node
	if n.Type() == unix.S_IFREG {
		return p.content(n).tailSize()
	}
	if tail := p.inodes[i].size % blockSize; tail <= maxInline {
		return tail
	}
	return 0
}

// compact tells whether the short inode can say it all.
func (p *plan) compact(i int) bool {
	n := p.inodes[i]
	return stampOf(n.node) == p.time && n.links <= math.MaxUint16 && n.size <= math.MaxUint32 &&
		n.node.UID <= math.MaxUint16 && n.node.GID <= math.MaxUint16
}

func (p *plan) coreSize(i int) int64 {
	if p.compact(i) {
		return compactSize
	}
	return extendedSize
}

// followSize is the size of the inode and all that follows it.
func (p *plan) followSize(i int) int64 {
	n := p.inodes[i].node
	size := p.coreSize(i) + int64(p.inodes[i].xattrs) + p.inlineSize(i)
	if n.Type() == unix.S_IFREG {
		size += int64(len(p.content(n).sparse))
	}
	return size
}

// encode gives the inode as it is on disk, with all that follows it.
func (p *plan) encode(i int, tail func(offset, size int64) ([]byte, error)) ([]byte, error) {
	n := p.inodes[i]
	b := p.core(i).encode()
	b = appendXattrs(b, n.node.Xattrs)
	switch n.node.Type() {
	case unix.S_IFDIR:
		inline := p.folderBytes(i)
		return append(b, inline[int64(len(inline))-p.inlineSize(i):]...), nil
	case unix.S_IFLNK:
		return append(b, n.node.Target[:p.inlineSize(i)]...), nil
	case unix.S_IFREG:
		return p.appendData(b, p.content(n.node), tail)
	}
	return b, nil
}

func (p *plan) appendData(b []byte, c content, tail func(offset, size int64) ([]byte, error)) ([]byte, error) {
	if c.tailSize() == 0 {
		return append(b, c.sparse...), nil
	}
	last, err := tail(c.tail, c.tailSize())
	return append(b, last...), err
}

// blockBytes gives what a folder or a link has in blocks of its own.
func (p *plan) blockBytes(i int) []byte {
	n := p.inodes[i]
	if n.node.Type() == unix.S_IFLNK {
		return []byte(n.node.Target)
	}
	all := p.folderBytes(i)
	return all[:int64(len(all))-p.inlineSize(i)]
}

func (p *plan) core(i int) core {
	n := p.inodes[i]
	c := core{
		compact: p.compact(i), xattrCount: xattrCount(n.xattrs), mode: uint16(n.node.Mode),
		links: uint32(n.links), size: uint64(n.size), number: uint32(i + 1),
		uid: n.node.UID, gid: n.node.GID, time: stampOf(n.node),
	}
	c.layout, c.data = p.layout(i)
	return c
}

// layout is how the inode's data is found, and where.
func (p *plan) layout(i int) (layout uint16, data uint32) {
	n := p.inodes[i]
	switch n.node.Type() {
	case unix.S_IFCHR, unix.S_IFBLK:
		return flatPlain, uint32(n.node.Rdev) // the low 32 bits are as the kernel encodes it
	case unix.S_IFREG:
		if c := p.content(n.node); c.sparse != nil {
			return chunkBased, uint32(chunkBits(c.size) - blockBits)
		} else {
			data = c.block
		}
	case unix.S_IFDIR, unix.S_IFLNK:
		data = uint32(p.dataBlock + n.block)
	}
	if p.inlineSize(i) > 0 {
		return flatInline, data
	}
	return flatPlain, data
}

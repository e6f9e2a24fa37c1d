package boltfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
)

// Numbers of bbolt's file format, version 2, which it keeps to itself.
const (
	magic      = 0xED0CDAED
	version    = 2
	headerSize = 16 // of a page: id, flags, count, overflow
	metaSize   = 64 // of a meta page's content: all fields, the checksum last
	bucketSize = 16 // of a bucket in its parent: root page, sequence
	branchSize = 16 // of an element of a branch page
	leafSize   = 16 // of an element of a leaf page

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagMeta     = 0x04
	flagFreelist = 0x10
	flagBucket   = 0x01 // of an element of a leaf page

	manyFree   = 0xFFFF // this count of a freelist page says that the first id is the count
	noFreelist = ^uint64(0)

	// Pages from a root to a leaf, buckets in buckets included: a sound file
	// of any size that fits a disk has fewer.
	depthMost = 64
)

// page is one page of the file with its overflow, or an inline bucket's.
type page struct {
	id       uint64
	flags    uint16
	count    int
	overflow uint64
	content  []byte // header included
}

// meta is the content of a meta page.
type meta struct {
	pageSize, root, freelist, end, txid uint64
}

// checker walks a file by plain reads.
type checker struct {
	file io.ReaderAt
	size uint64 // bytes of the file
	meta meta
	used map[uint64]bool // pages that were met
}

// check finds whatever bbolt would trip over. It returns nil when every page
// that can be reached is what it should be, once, and none of them is free.
func check(file io.ReaderAt, size int64) error {
	c := &checker{file: file, size: uint64(size), used: map[uint64]bool{0: true, 1: true}}
	if err := c.readMeta(); err != nil {
		return err
	}
	if err := c.walk(c.meta.root, bounds{}, 0); err != nil {
		return err
	}
	return c.checkFreelist()
}

// readMeta wants both meta pages to be right: with one, bbolt goes back to the
// transaction before, and what the last one acknowledged would be lost in silence.
// No power cut leaves half a meta page, which lies within one sector.
func (c *checker) readMeta() error {
	pageSize, err := c.readPageSize()
	if err != nil {
		return err
	}
	for id := range uint64(2) {
		m, err := c.metaAt(id, pageSize)
		if err != nil {
			return err
		}
		if m.txid >= c.meta.txid {
			c.meta = m
		}
	}
	if c.meta.end > c.size/pageSize {
		return fmt.Errorf("%d pages are in use, the file has %d", c.meta.end, c.size/pageSize)
	}
	return nil
}

func (c *checker) readPageSize() (uint64, error) {
	var field [4]byte
	if _, err := c.file.ReadAt(field[:], headerSize+8); err != nil {
		return 0, fmt.Errorf("meta page 0: %w", err)
	}
	size := uint64(binary.NativeEndian.Uint32(field[:]))
	if size < 512 || size > 1<<20 || size&(size-1) != 0 {
		return 0, fmt.Errorf("pages of %d bytes", size)
	}
	return size, nil
}

func (c *checker) metaAt(id, pageSize uint64) (m meta, err error) {
	content := make([]byte, headerSize+metaSize)
	if _, err := c.file.ReadAt(content, int64(id*pageSize)); err != nil {
		return m, fmt.Errorf("meta page %d: %w", id, err)
	}
	p := header(content)
	fields := content[headerSize:]
	sum := fnv.New64a()
	sum.Write(fields[:metaSize-8])
	switch {
	case p.id != id || p.flags != flagMeta:
		return m, fmt.Errorf("page %d is no meta page", id)
	case u32(fields, 0) != magic || u32(fields, 4) != version:
		return m, fmt.Errorf("meta page %d is not bbolt's", id)
	case u64(fields, metaSize-8) != sum.Sum64():
		return m, fmt.Errorf("meta page %d has a wrong checksum", id)
	case uint64(u32(fields, 8)) != pageSize:
		return m, fmt.Errorf("meta page %d has another page size", id)
	}
	return meta{pageSize: pageSize, root: u64(fields, 16), freelist: u64(fields, 32), end: u64(fields, 40), txid: u64(fields, 48)}, nil
}

// read reads a page, each once.
func (c *checker) read(id uint64) (page, error) {
	if id < 2 || id >= c.meta.end {
		return page{}, fmt.Errorf("page %d is outside of 2 to %d", id, c.meta.end)
	}
	head := make([]byte, headerSize)
	if _, err := c.file.ReadAt(head, int64(id*c.meta.pageSize)); err != nil {
		return page{}, fmt.Errorf("page %d: %w", id, err)
	}
	p := header(head)
	if p.id != id {
		return p, fmt.Errorf("page %d calls itself %d", id, p.id)
	}
	if p.overflow >= c.meta.end-id {
		return p, fmt.Errorf("page %d goes on for %d pages of %d", id, p.overflow, c.meta.end)
	}
	for i := id; i <= id+p.overflow; i++ {
		if c.used[i] {
			return p, fmt.Errorf("page %d is used twice", i)
		}
		c.used[i] = true
	}
	p.content = make([]byte, (p.overflow+1)*c.meta.pageSize)
	if _, err := c.file.ReadAt(p.content, int64(id*c.meta.pageSize)); err != nil {
		return p, fmt.Errorf("page %d: %w", id, err)
	}
	return p, nil
}

func (c *checker) checkFreelist() error {
	if c.meta.freelist == noFreelist {
		return nil
	}
	p, err := c.read(c.meta.freelist)
	if err != nil {
		return fmt.Errorf("freelist: %w", err)
	}
	if p.flags != flagFreelist {
		return fmt.Errorf("page %d is no freelist", p.id)
	}
	ids, count := p.content[headerSize:], uint64(p.count)
	if count == manyFree {
		count, ids = u64(ids, 0), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		return fmt.Errorf("freelist of %d pages does not fit its page", count)
	}
	for i := range int(count) {
		id := u64(ids, i*8)
		if id >= c.meta.end || c.used[id] {
			return fmt.Errorf("page %d is free and in use, or free twice, or none", id)
		}
		c.used[id] = true
	}
	return nil
}

// bounds are the keys that a page may hold: min is its first, all are below
// max; nil is no bound. bbolt finds the way from a page to its parent by the
// first key, and loses it where that is not the parent's.
type bounds struct{ min, max []byte }

// walk checks a page and all below it.
func (c *checker) walk(id uint64, keys bounds, depth int) error {
	if depth > depthMost {
		return fmt.Errorf("page %d lies more than %d deep", id, depthMost)
	}
	p, err := c.read(id)
	if err != nil {
		return err
	}
	switch p.flags {
	case flagLeaf:
		return c.leaf(p, keys, depth)
	case flagBranch:
		return c.branch(p, keys, depth)
	}
	return fmt.Errorf("page %d has the flags %#x", id, p.flags)
}

func (c *checker) branch(p page, keys bounds, depth int) error {
	if p.count == 0 {
		return fmt.Errorf("branch page %d is empty", p.id)
	}
	children := make([]uint64, p.count)
	firsts := make([][]byte, p.count)
	for i := range p.count {
		e, ok := p.element(i, branchSize)
		if !ok {
			return fmt.Errorf("page %d has no element %d", p.id, i)
		}
		children[i] = u64(e, 8)
		if firsts[i], ok = within(e, u32(e, 0), u32(e, 4)); !ok {
			return fmt.Errorf("key %d of page %d lies outside of it", i, p.id)
		}
	}
	if err := keys.fit(firsts); err != nil {
		return fmt.Errorf("page %d: %w", p.id, err)
	}
	for i, child := range children {
		below := bounds{min: firsts[i], max: keys.max}
		if i+1 < p.count {
			below.max = firsts[i+1]
		}
		if err := c.walk(child, below, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) leaf(p page, keys bounds, depth int) error {
	all := make([][]byte, p.count)
	for i := range p.count {
		e, ok := p.element(i, leafSize)
		if !ok {
			return fmt.Errorf("page %d has no element %d", p.id, i)
		}
		pos, keySize, valueSize := u32(e, 4), u32(e, 8), u32(e, 12)
		var value []byte
		all[i], ok = within(e, pos, keySize)
		if ok {
			value, ok = within(e, pos+keySize, valueSize)
		}
		if !ok || keySize == 0 {
			return fmt.Errorf("element %d of page %d lies outside of it, or has no key", i, p.id)
		}
		if err := c.value(u32(e, 0), value, depth); err != nil {
			return fmt.Errorf("element %d of page %d: %w", i, p.id, err)
		}
	}
	if err := keys.fit(all); err != nil {
		return fmt.Errorf("page %d: %w", p.id, err)
	}
	return nil
}

// value checks what an element of a leaf holds: nothing of ours, or a bucket.
func (c *checker) value(flags uint64, value []byte, depth int) error {
	if flags == 0 {
		return nil
	}
	if flags != flagBucket || len(value) < bucketSize {
		return fmt.Errorf("flags %#x and %d bytes", flags, len(value))
	}
	if root := u64(value, 0); root != 0 {
		return c.walk(root, bounds{}, depth+1)
	}
	inline := value[bucketSize:]
	if len(inline) < headerSize {
		return fmt.Errorf("inline bucket of %d bytes", len(inline))
	}
	p := header(inline)
	if p.id != 0 || p.flags != flagLeaf || depth > depthMost {
		return fmt.Errorf("inline bucket with the flags %#x", p.flags)
	}
	p.content = inline
	return c.leaf(p, bounds{}, depth+1)
}

// fit wants keys in strict order and within bounds.
func (b bounds) fit(keys [][]byte) error {
	if b.min != nil && (len(keys) == 0 || !bytes.Equal(b.min, keys[0])) {
		return fmt.Errorf("it does not begin with the key %q", b.min)
	}
	for i, key := range keys {
		if (b.max != nil && bytes.Compare(key, b.max) >= 0) || (i > 0 && bytes.Compare(keys[i-1], key) >= 0) {
			return fmt.Errorf("key %d is out of order", i)
		}
	}
	return nil
}

func header(b []byte) page {
	return page{
		id: u64(b, 0), flags: binary.NativeEndian.Uint16(b[8:]),
		count: int(binary.NativeEndian.Uint16(b[10:])), overflow: u32(b, 12),
	}
}

// element is the content from the i-th element on: positions count from there.
func (p page) element(i, size int) ([]byte, bool) {
	at := headerSize + i*size
	if at+size > len(p.content) {
		return nil, false
	}
	return p.content[at:], true
}

func within(b []byte, pos, size uint64) ([]byte, bool) {
	if pos+size > uint64(len(b)) {
		return nil, false
	}
	return b[pos : pos+size], true
}

func u32(b []byte, at int) uint64 { return uint64(binary.NativeEndian.Uint32(b[at:])) }
func u64(b []byte, at int) uint64 { return binary.NativeEndian.Uint64(b[at:]) }

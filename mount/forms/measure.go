package forms

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// reading is how a form is read for its digest.
type reading struct {
	// fromDisk gives up clean pages first, so that rot behind them is seen. Those
	// that a container has mapped stay.
	fromDisk bool
	read     func(n int64) error // called for every n bytes; an error ends it
}

// measureFile hashes a file.
func measureFile(ctx context.Context, path string, how reading) (m measured, err error) {
	f, err := os.Open(path)
	if err != nil {
		return m, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return m, err
	}
	h := digest.SHA256.Hash()
	if _, err := hashContent(ctx, h, f, make([]byte, hashStep), how); err != nil {
		return m, err
	}
	return measured{digest: digest.NewDigest(digest.SHA256, h), bytes: st.Blocks * 512}, nil
}

// hashStep is read at once: large enough for a disk, small enough to be paced.
const hashStep = 256 << 10

func hashContent(ctx context.Context, h hash.Hash, f *os.File, buf []byte, how reading) (size int64, err error) {
	if how.fromDisk {
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	for {
		if ctx.Err() != nil {
			return size, context.Cause(ctx)
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		size += int64(n)
		if err := how.read(int64(n)); err != nil {
			return size, err
		}
		if err == io.EOF {
			return size, nil
		}
		if err != nil {
			return size, err
		}
	}
}

// measurer hashes a folder: of each name in it, in order, all that a container
// can see but for times of access and change, and contents.
type measurer struct {
	ctx   context.Context
	how   reading
	hash  hash.Hash
	buf   []byte
	sum   measured
	links map[uint64]int64 // number of the first name of an inode that has several
}

func measureFolder(ctx context.Context, path string, how reading) (measured, error) {
	d, err := openFolder(unix.AT_FDCWD, path)
	if err != nil {
		return measured{}, err
	}
	defer d.Close()
	m := &measurer{ctx: ctx, how: how, hash: digest.SHA256.Hash(), buf: make([]byte, hashStep), links: map[uint64]int64{}}
	root, err := look(int(d.Fd()), ".")
	if err != nil {
		return measured{}, err
	}
	m.node("", root)
	if err := m.folder(d); err != nil {
		return measured{}, err
	}
	m.sum.digest = digest.NewDigest(digest.SHA256, m.hash)
	return m.sum, nil
}

func (m *measurer) folder(d *os.File) error {
	list, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(list)
	m.number(int64(len(list)))
	for _, name := range list {
		if m.ctx.Err() != nil {
			return context.Cause(m.ctx)
		}
		f, err := look(int(d.Fd()), name)
		if err != nil {
			return err
		}
		if err := m.name(d, name, f); err != nil {
			return err
		}
	}
	return nil
}

func (m *measurer) name(d *os.File, name string, f *found) error {
	switch {
	case f.isFolder():
		m.node(name, f)
		sub, err := openFolder(int(d.Fd()), name)
		if err != nil {
			return err
		}
		defer sub.Close()
		return m.folder(sub)
	case f.Links > 1:
		if first, ok := m.links[f.ino]; ok {
			m.text(name)
			m.number(first)
			return nil
		}
		m.links[f.ino] = m.sum.inodes
	}
	m.node(name, f)
	if !f.isRegular() {
		return nil
	}
	return m.content(d, name, f)
}

func (m *measurer) content(d *os.File, name string, f *found) error {
	file, err := openRegular(int(d.Fd()), name)
	if err != nil {
		return err
	}
	defer file.Close()
	size, err := hashContent(m.ctx, m.hash, file, m.buf, m.how)
	if err == nil && size != f.Size {
		err = fmt.Errorf("%s: %d bytes, want %d", name, size, f.Size)
	}
	return err
}

func (m *measurer) node(name string, f *found) {
	m.sum.inodes++
	m.sum.bytes += f.blocks * 512
	m.text(name)
	for _, n := range []int64{int64(f.Mode), int64(f.UID), int64(f.GID), int64(f.Rdev), f.ModTime.Unix(), int64(f.ModTime.Nanosecond()), f.Size, int64(len(f.Xattrs))} {
		m.number(n)
	}
	for _, x := range f.Xattrs {
		m.text(x.Name)
		m.text(x.Value)
	}
	m.text(f.Target)
}

// text hashes a length too, so that no two folders give the same bytes.
func (m *measurer) text(s string) {
	m.number(int64(len(s)))
	_, _ = io.WriteString(m.hash, s) // never fails
}

func (m *measurer) number(n int64) {
	m.hash.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
}

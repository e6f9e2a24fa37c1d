package layertree

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"golang.org/x/sys/unix"
)

// Sink takes the bytes of regular files. One Read calls it from one goroutine.
type Sink interface {
	// File takes the bytes of one regular file, all size of them (size is above
	// 0), and returns a number above 0 that Node.Content will carry. It is not told
	// of bytes whose file the layer takes away again: they are in no node.
	File(r io.Reader, size int64) (content int64, err error)
}

// Options are how a layer is read. The zero value is ready.
type Options struct {
	Limits Limits
}

// Read reads a layer's tar stream, decompressed, to its end: what stands after
// the tar's own end too, so that a digest computed of r is complete. r is not
// closed.
//
// parents are the layers below; nil says that they are not known.
//
// Errors: *LimitError, *RefusedError, *NeedsParentError, the context's, and
// those of r, parents and sink. With any of them the tree is nil, and what the
// sink was given is of no use.
func Read(ctx context.Context, r io.Reader, o Options, parents *Parents, sink Sink) (*Tree, error) {
	l := newLayer(ctx, r, o.Limits.orDefaults(), parents, sink)
	if err := l.entries(); err != nil {
		return nil, err
	}
	if err := l.setFolderTimes(); err != nil {
		return nil, err
	}
	if err := l.drain(); err != nil {
		return nil, err
	}
	return &Tree{Root: l.root, Entries: l.names, Bytes: l.bytes}, nil
}

// layer is a tree while it is read.
type layer struct {
	stream       *stream
	tar          *tar.Reader
	spent        spent
	parentsKnown bool
	lowers       []*lower // the topmost first
	sink         Sink

	root        *Node
	names       int          // in the tree now
	bytes       int64        // of regular files in the tree now
	headerBytes int64        // of the stream
	folders     []folderTime // in the order of their entries
}

func newLayer(ctx context.Context, r io.Reader, limits Limits, parents *Parents, sink Sink) *layer {
	s := &stream{ctx: ctx, r: r}
	l := &layer{
		stream:       s,
		tar:          tar.NewReader(s),
		spent:        spent{limits: limits},
		parentsKnown: parents != nil,
		sink:         sink,
		root:         &Node{Mode: unix.S_IFDIR | 0o755, ModTime: epoch, Links: 1},
	}
	l.lowers = parents.lowers(&l.spent)
	return l
}

// entries puts every entry of the tar into the tree.
func (l *layer) entries() error {
	for {
		header, err := l.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := l.account(header); err != nil {
			return err
		}
		if err := l.place(header); err != nil {
			return err
		}
	}
}

// next is the next header, at a bounded cost.
func (l *layer) next() (*tar.Header, error) {
	limit := l.spent.limits.headerBytes()
	l.stream.allow(min(maxHeader, limit-l.headerBytes), &LimitError{"bytes of headers in front of one entry, or of all headers", min(maxHeader, limit)})
	before := l.stream.n
	header, err := l.tar.Next()
	l.headerBytes += l.stream.n - before
	l.stream.allow(math.MaxInt64-l.stream.n, nil)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, l.broken(err)
	}
	return header, err
}

// broken tells an error of the reader below from one that archive/tar found.
func (l *layer) broken(err error) error {
	if l.stream.err != nil {
		return l.stream.err
	}
	return &RefusedError{Reason: "it is no complete tar stream", Err: err}
}

// account counts what a header will cost before anything is done with it.
func (l *layer) account(h *tar.Header) error {
	if err := l.spent.addEntry(); err != nil {
		return err
	}
	size := nodeBytes + 2*len(h.Name) + len(h.Linkname)
	if h.Typeflag == tar.TypeDir {
		size += folderBytes + len(h.Name)
	}
	for key, value := range h.PAXRecords {
		if _, isXattr := xattrName(key); isXattr {
			size += len(key) + len(value)
		}
	}
	if err := l.spent.addMetadata(size); err != nil {
		return err
	}
	if !hasContent(h.Typeflag) {
		return nil
	}
	return l.spent.addBytes(h.Size)
}

// hasContent is false for the types of which archive/tar reads no bytes,
// whatever size their headers state.
func hasContent(typeflag byte) bool {
	switch typeflag {
	case tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo, tar.TypeXGlobalHeader:
		return false
	}
	return true
}

// file gives a regular file's bytes to the sink.
func (l *layer) file(h *tar.Header) (int64, error) {
	if h.Size == 0 {
		return 0, nil
	}
	c := &content{r: l.tar, left: h.Size}
	number, err := l.sink.File(c, h.Size)
	switch {
	case c.err != nil:
		return 0, l.broken(c.err)
	case err != nil:
		return 0, fmt.Errorf("keep %q: %w", shortened(h.Name), err)
	case c.left > 0:
		return 0, fmt.Errorf("keep %q: %d bytes were left", shortened(h.Name), c.left)
	}
	return number, nil
}

// skip passes over an entry's bytes.
func (l *layer) skip(h *tar.Header) error {
	if !hasContent(h.Typeflag) {
		return nil
	}
	if _, err := io.Copy(io.Discard, l.tar); err != nil {
		return l.broken(err)
	}
	return nil
}

// drain reads what stands after the tar's end: padding, most often. As much is
// allowed as is left of the bytes of content.
func (l *layer) drain() error {
	const padding = 1 << 20 // 1 MiB: tar programs fill up blocks of at most 512 KiB
	l.stream.allow(l.spent.limits.Bytes-l.spent.bytes+padding, &LimitError{"bytes of content, or after the end", l.spent.limits.Bytes})
	_, err := io.Copy(io.Discard, l.stream)
	return err
}

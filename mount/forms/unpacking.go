package forms

import (
	"bufio"
	"context"
	"errors"
	"hash"
	"io"
	"slices"
	"syscall"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/imagecache/imagecache/mount/erofs"
	"github.com/imagecache/imagecache/mount/layertree"
)

// compressedStep is how many compressed bytes are read at once: enough that who
// gives its turn back for each of them does so some thousand times a second at most.
const compressedStep = 256 << 10

// unpacking reads one layer, in one pass: decompressed, hashed, and into a tree.
type unpacking struct {
	making *making
	turn   *turn
	source io.ReadCloser
	broken error // of the source
	ended  bool  // the source is proven
	hash   hash.Hash
}

// read gives the tree, when all bytes have come and hash to the diff ID.
func (u *unpacking) read(maker maker, lowers []string, metadata int64) (tree *layertree.Tree, err error) {
	ctx, cancel := context.WithCancel(u.making.ctx)
	defer cancel()
	if u.source, err = u.making.layer().Open(ctx); err != nil {
		u.broken = err
		return nil, err
	}
	defer u.source.Close()
	defer u.turn.give()
	tree, err = u.tree(maker, lowers, metadata)
	if err == nil || u.broken != nil || !u.inLayer(err) {
		return tree, err
	}
	// What is wrong may be the blob and not the layer: its end tells.
	_, _ = io.Copy(io.Discard, (*compressed)(u)) // the error is u.broken
	return nil, err
}

// inLayer reports whether an error is about what the layer holds.
func (u *unpacking) inLayer(err error) bool {
	var errno syscall.Errno
	return !isNeeds(err) && !isLimit(err) && !isUnfit(err) && !errors.As(err, &errno) && u.making.ctx.Err() == nil
}

func (u *unpacking) tree(maker maker, lowers []string, metadata int64) (*layertree.Tree, error) {
	j := u.making
	parents, err := j.parents(lowers)
	if err != nil {
		return nil, err
	}
	if parents != nil {
		defer parents.Close()
	}
	tar, err := layertree.Decompress(bufio.NewReaderSize((*compressed)(u), compressedStep))
	if err != nil {
		return nil, err
	}
	defer tar.Close()
	u.hash = j.layer().DiffID.Algorithm().Hash()
	tree, err := layertree.Read(j.ctx, io.TeeReader(tar, (*hashed)(u)), layertree.Options{Limits: j.limits(metadata)}, parents, maker)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(io.Discard, (*compressed)(u)); err != nil { // what stands behind the last member
		return nil, err
	}
	if got := digest.NewDigest(j.layer().DiffID.Algorithm(), u.hash); got != j.layer().DiffID {
		return nil, &DiffIDError{Want: j.layer().DiffID, Got: got}
	}
	return tree, nil
}

// hashed takes the tar stream for its digest, and counts it.
type hashed unpacking

func (h *hashed) Write(p []byte) (int, error) {
	h.making.f.counts.unpacked.Add(int64(len(p)))
	return h.hash.Write(p)
}

// parents are nil as long as the layer is read alone.
func (j *making) parents(lowers []string) (*layertree.Parents, error) {
	if !j.chained {
		return nil, nil
	}
	return layertree.OpenParents(lowers)
}

// compressed reads the source: it gives the turn back meanwhile, counts, and
// remembers whether the source broke.
type compressed unpacking

func (c *compressed) Read(p []byte) (n int, err error) {
	if c.broken != nil {
		return 0, c.broken
	}
	if c.ended {
		return 0, io.EOF
	}
	c.turn.give()
	n, err = c.source.Read(p)
	c.making.read.Add(int64(n))
	c.making.progress(int64(n))
	switch {
	case errors.Is(err, io.EOF):
		c.ended = true
	case err != nil:
		c.broken = err
		return n, err
	}
	if took := c.turn.take(c.making.ctx); took != nil {
		return n, took
	}
	return n, err
}

// isUnfit, isLimit and isNeeds tell errors of others apart.
func isUnfit(err error) bool { return errors.As(err, new(*erofs.UnfitError)) }
func isLimit(err error) bool { return errors.As(err, new(*layertree.LimitError)) }
func isNeeds(err error) bool { return errors.As(err, new(*layertree.NeedsParentError)) }

// judge says by which reason an error ended a making. u is nil when it was not
// met while the layer was read.
func (j *making) judge(err error, u *unpacking) error {
	if err == nil || isNeeds(err) || isUnfit(err) {
		return err
	}
	if known := new(MakeError); errors.As(err, &known) {
		return err
	}
	return j.failed(j.reason(err, u), err)
}

func (j *making) failed(reason string, err error) error {
	return &MakeError{DiffID: j.layer().DiffID, Reason: reason, Err: err}
}

func (j *making) reason(err error, u *unpacking) string {
	var errno syscall.Errno
	switch {
	case context.Cause(j.f.ctx) != nil:
		return ReasonClosed
	case j.ctx.Err() != nil:
		return ReasonUnwanted
	case u != nil && u.broken != nil:
		return ReasonBlob
	case j.f.unfit(err):
		return ReasonUnfit
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return ReasonSpace
	case errors.As(err, &errno):
		return ReasonDisk
	case isLimit(err):
		return ReasonLimit
	case errors.As(err, new(*DiffIDError)):
		return ReasonDiffID
	case u == nil:
		return ReasonDisk
	}
	return ReasonLayer
}

// unfitFor are what a file system says that cannot hold what it is told to.
var unfitFor = []error{syscall.ENOTSUP, syscall.ENAMETOOLONG, syscall.E2BIG, syscall.ERANGE, syscall.EMLINK, syscall.EFBIG, syscall.EOVERFLOW, syscall.EPERM, syscall.EINVAL}

// unfit reports whether an error says so. ext4 has no space for attributes beyond
// a block, however large the disk is.
func (f *Forms) unfit(err error) bool {
	if slices.ContainsFunc(unfitFor, func(e error) bool { return errors.Is(err, e) }) {
		return true
	}
	const plenty = 64 << 20 // bytes: in so much there would be space for any attribute
	var st unix.Statfs_t
	return errors.Is(err, syscall.ENOSPC) && unix.Statfs(f.at.root, &st) == nil &&
		st.Bavail*uint64(st.Bsize) > plenty && (st.Files == 0 || st.Ffree > 1000)
}

// final reports whether the same bytes would fail the same way.
func (e *MakeError) final() bool {
	switch e.Reason {
	case ReasonDiffID, ReasonLayer, ReasonLimit, ReasonUnfit:
		return true
	}
	return false
}

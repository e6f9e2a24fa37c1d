package layerstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

const (
	// A blob of at most this many bytes is hashed before it is given, rather
	// than beside: that takes less time than a goroutine and a descriptor more.
	// Of a larger one as many are withheld until it is proven: who asks for a
	// range in there has been given nothing when it proves rotten, and can be
	// served from elsewhere.
	verifyFirst = 64 << 10
	// Blobs that are hashed side by side. Hashing takes a core each; after an
	// unclean stop, when everything is to be proven again, more would only
	// take memory.
	verifiesAtOnce = 8
)

// RotError says that a sealed blob is not what it was when it was proven. It
// has been taken away; who fetches it again gets it from a source.
type RotError struct {
	Digest digest.Digest
	Err    error // what is wrong with it
}

func (e *RotError) Error() string {
	return fmt.Sprintf("the stored blob %s is damaged: %s", e.Digest, e.Err)
}

func (e *RotError) Unwrap() error { return e.Err }

var (
	errMissing  = errors.New("its file is gone")
	errNotWhole = errors.New("its file was gone or cut short when the store was opened")
	errNoFile   = errors.New("it is not a regular file")
	errReplaced = errors.New("its file may be another by now")
)

// wrongHash is the digest of a blob that should have another.
type wrongHash digest.Digest

func (w wrongHash) Error() string { return "its bytes hash to " + string(w) }

// wrongSize is what is wrong with a blob of want bytes that has got.
func wrongSize(got, want int64) error { return fmt.Errorf("it has %d bytes instead of %d", got, want) }

// trust lets a hit be given when its proof is fresh. Otherwise the blob is
// proven again, beside the sending: its reader follows that as it would a flight
// of which all bytes are here, with the last ones held back. opened is how many
// blobs had been sealed before the file was opened. b is closed when an error is
// returned; fs.ErrNotExist stands for a blob that proved rotten, errReplaced for
// a file that another may have taken the place of since.
func (s *Store) trust(b *Blob, info os.FileInfo, opened uint64) (*Blob, error) {
	k, indexed := s.proofs.of(b.digest)
	var err error
	switch {
	case indexed && k.since > opened:
		err = errReplaced
	case s.proofs.hidden(b.digest):
		err = fs.ErrNotExist
	case !info.Mode().IsRegular():
		err = s.rotten(b.digest, info, errNoFile)
	case indexed && info.Size() != k.size:
		err = s.rotten(b.digest, info, wrongSize(info.Size(), k.size))
	case indexed && s.proofs.fresh(k):
	case s.proofs.after < 0:
	case info.Size() <= verifyFirst:
		err = s.verifyNow(b, info)
	default:
		err = s.verifyBeside(b, info)
	}
	if err != nil {
		b.Close()
		return nil, err
	}
	b.came = k.sealed
	return b, nil
}

// rotten takes a blob away, and is fs.ErrNotExist.
func (s *Store) rotten(d digest.Digest, info os.FileInfo, why error) error {
	s.condemn(d, info, why)
	return fs.ErrNotExist
}

// unopened judges the error of opening a sealed blob: one that cannot be
// read any more, though descriptors and memory do not lack, is rotten; one that
// is gone though it has a row is lost.
func (s *Store) unopened(d digest.Digest, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, known := s.index.get(d); known == nil {
			s.condemn(d, nil, errMissing)
		}
	case damaged(err):
		if info, serr := os.Lstat(s.layout.blob(d)); serr == nil {
			return s.rotten(d, info, err)
		}
	}
	return err
}

// damaged reports whether an error of the file system is about what it holds,
// not about what the process may or has left.
func damaged(err error) bool {
	for _, e := range []error{unix.EIO, unix.EACCES, unix.ELOOP, unix.EISDIR, unix.EUCLEAN, unix.EBADMSG, io.ErrUnexpectedEOF} {
		if errors.Is(err, e) {
			return true
		}
	}
	return errors.As(err, new(wrongHash))
}

// verifyNow hashes a small blob.
func (s *Store) verifyNow(b *Blob, info os.FileInfo) error {
	err := hashFile(context.Background(), b.file, b.digest, b.size)
	if err == nil {
		s.proofs.renew(b.digest, b.size)
		return nil
	}
	if damaged(err) {
		return s.rotten(b.digest, info, err)
	}
	return err
}

// verification is a sealed blob that is being proven again, and all who read
// it meanwhile: they follow the flight.
type verification struct {
	*flight
	file *os.File // its own descriptor
	info os.FileInfo
}

// verifyBeside makes b a follower of the verification of its file; it begins
// one where there is none.
func (s *Store) verifyBeside(b *Blob, info os.FileInfo) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.verifying[b.digest]; v != nil && os.SameFile(v.info, info) {
		b.flight = v.flight
		return nil
	}
	if s.closed {
		return ErrClosed
	}
	// A descriptor of this very file, whatever has its name by now.
	fd, err := unix.FcntlInt(b.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("dup", err)
	}
	v := &verification{info: info, file: os.NewFile(uintptr(fd), b.file.Name()), flight: &flight{
		store: s, digest: b.digest, size: b.size, answered: true, have: spans{{0, b.size}}, withheld: verifyFirst,
	}}
	s.verifying[b.digest] = v
	b.flight = v.flight
	s.flying.Go(func() { s.verify(v) })
	return nil
}

// verify is the whole life of a verification.
func (s *Store) verify(v *verification) {
	defer v.file.Close()
	err := s.turn(func() error { return hashFile(s.ctx, v.file, v.digest, v.size) })
	switch {
	case err == nil:
		s.proofs.renew(v.digest, v.size)
	case s.ctx.Err() != nil:
		err = ErrClosed
	case damaged(err):
		s.condemn(v.digest, v.info, err)
		err = cutOrPast(v.digest, err)
	default:
		err = fmt.Errorf("verify %s: %w", v.digest, err)
	}
	s.mu.Lock()
	if s.verifying[v.digest] == v { // another file may have taken its place
		delete(s.verifying, v.digest)
	}
	s.mu.Unlock()
	if err != nil {
		v.advance(failed, err)
		return
	}
	v.advance(sealed_, nil)
}

// cutOrPast is what a follower of a rotten blob gets. Where bytes are wrong he
// has them, and is cut. Where they cannot be read he may have been given none
// but right ones, and goes on past the store, which hashes the whole.
func cutOrPast(d digest.Digest, err error) error {
	if errors.As(err, new(wrongHash)) {
		return &RotError{Digest: d, Err: err}
	}
	return storageError("read blob", err)
}

// turn does work when it is one of at most verifiesAtOnce.
func (s *Store) turn(work func() error) error {
	select {
	case s.turns <- struct{}{}:
		defer func() { <-s.turns }()
		return work()
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

// hashFile reads the size bytes of a blob and compares: nil when they are
// right, wrongHash when they are not.
func hashFile(ctx context.Context, file io.ReaderAt, d digest.Digest, size int64) error {
	buf := chunks.Get().(*[]byte)
	defer chunks.Put(buf)
	hash := d.Algorithm().Hash()
	for at := int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n, err := file.ReadAt((*buf)[:min(int64(len(*buf)), size-at)], at)
		hash.Write((*buf)[:n])
		at += int64(n)
		if err != nil && at < size {
			return noEarlyEnd(err)
		}
	}
	if got := digest.NewDigest(d.Algorithm(), hash); got != d {
		return wrongHash(got)
	}
	return nil
}

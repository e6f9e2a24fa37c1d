package layerstore

import (
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
)

var (
	// ErrNotFound: the digest is neither sealed nor in flight, and no source was given.
	ErrNotFound = errors.New("not in the store")
	// ErrLocked: another process holds the store's root.
	ErrLocked = errors.New("another imagecache is using this store")
	// ErrForeign: the folder has content and was not made by a store.
	ErrForeign = errors.New("the folder is not empty and not an imagecache store")
	// ErrNewer: the store was written by a later version of its format.
	ErrNewer = errors.New("the store was written by a newer version of imagecache")
	// ErrStalled: the source sent nothing for too long, several times over.
	ErrStalled = errors.New("the source went silent")
	// ErrClosed: the store was closed while, or before, it was asked.
	ErrClosed = errors.New("the store is closed")
)

// DigestError says that a whole blob came and its bytes do not hash to the
// digest it was asked by. Nothing of it is kept.
type DigestError struct {
	Want, Got digest.Digest
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("the bytes that came for %s hash to %s", e.Want, e.Got)
}

// SizeError says that a source announced another size, in bytes, than the
// descriptor or an earlier answer did.
type SizeError struct {
	Digest    digest.Digest
	Want, Got int64
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("%s should have %d bytes, the source announces %d", e.Digest, e.Want, e.Got)
}

// StorageError wraps an error of the disk, so that callers can tell a store
// that cannot keep from a source that cannot give.
type StorageError struct {
	Op  string
	Err error
}

func (e *StorageError) Error() string { return "store: " + e.Op + ": " + e.Err.Error() }
func (e *StorageError) Unwrap() error { return e.Err }

func storageError(op string, err error) error {
	if err == nil {
		return nil
	}
	return &StorageError{Op: op, Err: err}
}

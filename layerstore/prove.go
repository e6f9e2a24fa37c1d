package layerstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/opencontainers/go-digest"
)

// Prove reads a sealed blob from the disk, past the page cache where the file
// system can, and hashes it. It returns how many bytes it has. That is no use
// of the blob: its time of use stays. Errors: [ErrNotFound], *[RotError] when it
// is rotten, and was taken away, [ErrClosed], *[StorageError], the cause of ctx.
func (s *Store) Prove(ctx context.Context, d digest.Digest) (int64, error) {
	if err := checkDigest(d); err != nil {
		return 0, err
	}
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.flying.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(ErrClosed) })()
	if s.proofs.hidden(d) {
		return 0, fmt.Errorf("%s: %w", d, ErrNotFound)
	}
	file, err := openDirect(s.layout.blob(d))
	if err != nil {
		if err = s.unopened(d, err); errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("%s: %w", d, ErrNotFound)
		}
		return 0, storageError("open blob", err)
	}
	defer file.close()
	info, err := file.Stat()
	if err != nil {
		return 0, storageError("read blob", err)
	}
	err = s.examine(ctx, d, info, func(ctx context.Context) error {
		buf, err := newDirectBuffer()
		if err != nil {
			return err
		}
		defer buf.free()
		return file.hash(d, info.Size(), buf, func(int64) error { return context.Cause(ctx) })
	})
	var rot *RotError
	switch {
	case err == nil, errors.As(err, &rot):
		return info.Size(), err
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	}
	return 0, storageError("read blob", err)
}

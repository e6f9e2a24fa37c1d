package contentstore

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/imagecache/imagecache/layerstore"
	"github.com/opencontainers/go-digest"
)

// meanings say which errors of containerd stand for those of the store.
var meanings = []struct{ ours, theirs error }{
	{layerstore.ErrNotFound, errdefs.ErrNotFound},
	{layerstore.ErrExists, errdefs.ErrAlreadyExists},
	{layerstore.ErrBusy, errdefs.ErrUnavailable},
	{layerstore.ErrNeeded, errdefs.ErrFailedPrecondition},
	{layerstore.ErrEnded, errdefs.ErrFailedPrecondition},
	// Not "unavailable": containerd would ask for as long as its caller waits.
	{layerstore.ErrClosed, errdefs.ErrFailedPrecondition},
	{digest.ErrDigestUnsupported, errdefs.ErrInvalidArgument},
	{digest.ErrDigestInvalidFormat, errdefs.ErrInvalidArgument},
	{digest.ErrDigestInvalidLength, errdefs.ErrInvalidArgument},
}

// translate adds what containerd calls an error of the store. One that it has
// no word for, of the disk above all, stays as it is.
func translate(err error) error {
	var wrong *layerstore.DigestError
	var size *layerstore.SizeError
	if errors.As(err, &wrong) || errors.As(err, &size) {
		return fmt.Errorf("%w: %w", errdefs.ErrFailedPrecondition, err)
	}
	for _, m := range meanings {
		if errors.Is(err, m.ours) {
			return fmt.Errorf("%w: %w", m.theirs, err)
		}
	}
	return err
}

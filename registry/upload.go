package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imagecache/imagecache/layerstore"
)

// Upload is a blob that a client is sending to a home, in one piece or in
// several. What came is kept between the pieces and over a restart, and for as
// long as the store keeps what nobody goes on with.
type Upload struct {
	ID     string
	Offset int64 // bytes that came so far
}

// uploadBuffer is what one upload holds in memory, in bytes.
const uploadBuffer = 256 << 10

func ingestOf(in Repository, id string) string { return "upload " + in.String() + " " + id }

// StartUpload begins an upload to a home. Errors have [CodeUnsupported] where
// the registry is none.
func (r *Registry) StartUpload(ctx context.Context, in Repository) (Upload, error) {
	through, err := r.destination(ctx, in)
	if err == nil && through != nil {
		err = through.upstream.mayPush(ctx, in.Path)
	}
	if err != nil {
		return Upload{}, err
	}
	id := rand.Text()
	i, err := r.store.Ingest(ingestOf(in, id), specs.Descriptor{})
	if err != nil {
		return Upload{}, err
	}
	return Upload{ID: id}, i.Close()
}

// UploadStatus tells how far an upload has come. Errors have [CodeUploadUnknown].
func (r *Registry) UploadStatus(_ context.Context, in Repository, id string) (Upload, error) {
	info, err := r.store.StatIngest(ingestOf(in, id))
	if err != nil {
		return Upload{}, uploadError(in, id, err)
	}
	return Upload{ID: id, Offset: info.Offset}, nil
}

// AppendUpload takes a piece that begins at from, or behind what came when from
// is negative. What came of a piece that breaks off is kept. Errors have
// [CodeUploadUnknown], [CodeRange] where the piece begins elsewhere, and
// [CodeUploadBusy] where another is being sent.
func (r *Registry) AppendUpload(_ context.Context, in Repository, id string, from int64, body io.Reader) (Upload, error) {
	i, err := r.openUpload(in, id, from)
	if err != nil {
		return Upload{}, err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{i}, body, make([]byte, uploadBuffer))
	u := Upload{ID: id, Offset: i.Info().Offset}
	return u, errors.Join(uploadError(in, id, err), i.Close())
}

// FinishUpload takes the last piece, which may be empty, and makes the whole a
// blob of the repository. It is durable when it returns. Errors are those of
// AppendUpload, and one with [CodeDigestInvalid] where the bytes are of another
// digest: then the upload is over.
func (r *Registry) FinishUpload(ctx context.Context, in Repository, id string, d digest.Digest, from int64, body io.Reader) error {
	through, err := r.destination(ctx, in)
	if err != nil {
		return err
	}
	i, err := r.openUpload(in, id, from)
	if err != nil {
		return err
	}
	defer i.Close()
	if _, err := io.CopyBuffer(struct{ io.Writer }{i}, body, make([]byte, uploadBuffer)); err != nil {
		return uploadError(in, id, err)
	}
	// Held from before the commit, which finds the blob here when somebody was
	// faster, until it has its root.
	lease := r.store.Lease()
	defer lease.Release()
	lease.Hold(d)
	_, err = i.Commit(ctx, specs.Descriptor{Digest: d})
	var wrong *layerstore.DigestError
	switch {
	case errors.As(err, &wrong):
		return errors.Join(&Error{Code: CodeDigestInvalid, Reference: d.String(), Message: "what was sent has the digest " + wrong.Got.String()},
			r.CancelUpload(ctx, in, id))
	case err != nil && !errors.Is(err, layerstore.ErrExists):
		return err
	}
	if through != nil {
		return r.passBlob(ctx, *through, d)
	}
	return r.enterPushed(in, d)
}

// CancelUpload ends an upload and drops what came.
func (r *Registry) CancelUpload(_ context.Context, in Repository, id string) error {
	return uploadError(in, id, r.store.AbortIngest(ingestOf(in, id)))
}

// openUpload opens an upload that was started, at an offset.
func (r *Registry) openUpload(in Repository, id string, from int64) (*layerstore.Ingest, error) {
	info, err := r.store.StatIngest(ingestOf(in, id))
	if err != nil {
		return nil, uploadError(in, id, err)
	}
	if from >= 0 && from != info.Offset {
		return nil, &Error{Code: CodeRange, Reference: in.String(), Message: "the piece does not begin where the last one ended"}
	}
	i, err := r.store.Ingest(ingestOf(in, id), specs.Descriptor{})
	return i, uploadError(in, id, err)
}

func uploadError(in Repository, id string, err error) error {
	switch {
	case errors.Is(err, layerstore.ErrNotFound), errors.Is(err, layerstore.ErrEnded): // ended by who cancelled it meanwhile
		return &Error{Code: CodeUploadUnknown, Reference: in.String(), Message: "there is no upload " + quoted(id) + "; begin a new one"}
	case errors.Is(err, layerstore.ErrBusy):
		return &Error{Code: CodeUploadBusy, Reference: in.String(), Message: "another piece of this upload is being sent"}
	}
	return err
}
